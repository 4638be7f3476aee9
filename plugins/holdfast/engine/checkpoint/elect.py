"""Which checkpoint a run goes on from: the newest of the newest epoch's lineage whose bytes are really there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.engine.checkpoint.errors import CheckpointUnreadable, FormatUnknown, NothingSelectable
from holdfast.engine.checkpoint.fingerprint import differences
from holdfast.engine.checkpoint.format import (
    CheckpointManifest,
    manifest_prefix,
    parse_manifest,
    parse_manifest_key,
    run_root,
)
from holdfast.engine.checkpoint.verify import damage
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.lineage import EpochFork, require_fork

Resume = Literal["bitwise", "numerically equivalent", "from the start"]
#: None, or why residency forbids a checkpoint where it would be resumed.
Allowed = Callable[[CheckpointManifest], str | None]
#: None, or what is wrong with a checkpoint's blobs in this store.
DamageOf = Callable[[ObjectStore, CheckpointManifest], str | None]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A checkpoint that was not elected, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Election:
    """What a run goes on from. ``step`` is 0 and ``manifest`` None when it starts anew.

    ``resume`` is "bitwise" only when a fingerprint was given and equals the checkpoint's; ``differences`` says where
    it does not.
    """

    run: str
    epoch: int
    manifest: CheckpointManifest | None
    digest: str | None
    step: int
    resume: Resume
    passed_over: tuple[PassedOver, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """A manifest and the key it lies under."""

    key: str
    manifest: CheckpointManifest


def elect(
    store: ObjectStore,
    run: str,
    *,
    epoch: int,
    fingerprint: Mapping[str, str] | None = None,
    site: str | None = None,
    allowed: Allowed | None = None,
    damage_of: DamageOf | None = None,
    or_nothing: bool = False,
) -> Election:
    """Choose the checkpoint to resume from at this site.

    Selectable are the checkpoints of the newest epoch, the one its fork record names, and that one's ancestors. What
    an older epoch wrote after the fork is no ancestor, so a stale writer's checkpoints are never elected, however
    new they are. Of the selectable the newest step wins whose blobs all read back with their digests, and decode to
    what the manifest names where they are encoded.

    Args:
        epoch: the newest committed epoch, from the authority. When electing for a promotion: the epoch that ends.
        fingerprint: of the environment that will resume; None when that is not known here.
        site: this site's name. With it, what was written at another site needs this site's receipt: without one
            nobody ever read it back here. None: the bytes read now are all that is asked for.
        allowed: None or the reason why residency forbids a checkpoint here. None: everything is allowed.
        damage_of: who reads a checkpoint's blobs; by default this process, `damage`; it may keep them for `load_state`.
        or_nothing: "from the start" also where the fork names a checkpoint that cannot be resumed from here. For a plan
            that promotes a site, whose new fork names the same again; who would train from it leaves it False.

    Raises:
        EpochUnknownHere: epoch > 1 and this bucket has no fork record of it; nothing is selectable.
        NothingSelectable: the fork record names a checkpoint, and no checkpoint of that lineage is whole here.
        FormatUnknown: nothing is selectable, and a checkpoint of the lineage is of a later format.
        StoreUnavailable: the bucket does not answer.
        ConfigError: a blob is encoded, and what decodes it is not installed here; nothing older is elected instead.
    """
    damage_of = damage_of or damage
    fork = require_fork(store, run_root(run), epoch)
    passed: list[PassedOver] = []
    for located in lineage(store, run, epoch=epoch, fork=fork, passed=passed):
        against = refusal(store, located.manifest, site=site, allowed=allowed) or damage_of(store, located.manifest)
        if against is None:
            found = located.manifest
            unlike = differences(found.fingerprint, fingerprint) if fingerprint is not None else ()
            exact = fingerprint is not None and not unlike
            return Election(
                run,
                epoch,
                found,
                found.digest,
                found.step,
                "bitwise" if exact else "numerically equivalent",
                tuple(passed),
                unlike,
            )
        passed.append(PassedOver(located.key, against))
    _refuse_later_formats(store, run, epoch=epoch, fork=fork)
    if fork is not None and fork.forked_from is not None and not or_nothing:
        raise NothingSelectable(
            "the run has been trained, but nothing of it can be resumed from here",
            where=f"{store.name}: {run_root(run)}, epoch {epoch}",
            expected=f"the checkpoint {fork.forked_from} or an ancestor of it, whole",
            found="; ".join(f"{one.key.rpartition('/')[2]}: {one.reason}" for one in passed[:5]) or "no checkpoint",
            fix="Switch over to a site that holds it whole (`holdfast train verify` tells which) or bring it from "
            "there with `replicate_checkpoint`; or start anew: `holdfast train run GROUP JOB --run` with a new name",
        )
    return Election(run, epoch, None, None, 0, "from the start", tuple(passed))


def _refuse_later_formats(store: ObjectStore, run: str, *, epoch: int, fork: EpochFork | None) -> None:
    """Nobody starts anew beside checkpoints that a later version wrote and can read."""
    goes_on = fork is not None and fork.forked_from is not None
    for info in store.list(manifest_prefix(run)):
        where = parse_manifest_key(info.key)
        if where is None or not (where[1] == epoch or (goes_on and where[1] < epoch)):
            continue
        try:
            parse_manifest(store.get(info.key), where=info.key)
        except FormatUnknown:
            raise
        except (CheckpointUnreadable, ObjectNotFound):
            continue


def newest(
    store: ObjectStore, run: str, *, epoch: int, site: str | None = None, allowed: Allowed | None = None
) -> CheckpointManifest | None:
    """The newest committed checkpoint of the lineage, its blobs not read. Arguments and errors as `elect`."""
    fork = require_fork(store, run_root(run), epoch)
    line = (located.manifest for located in lineage(store, run, epoch=epoch, fork=fork, passed=[]))
    return next((found for found in line if refusal(store, found, site=site, allowed=allowed) is None), None)


def refusal(
    store: ObjectStore, manifest: CheckpointManifest, *, site: str | None, allowed: Allowed | None
) -> str | None:
    """Why a checkpoint may not be resumed from at this site, whatever its bytes are; None when it may."""
    if allowed is not None and (reason := allowed(manifest)) is not None:
        return reason
    if site is None or manifest.site == site:
        return None
    from holdfast.engine.checkpoint.replicate import read_checkpoint_receipt  # it imports forks, and they elections

    try:
        receipt = read_checkpoint_receipt(store, manifest.run, manifest.digest, site)
    except ValueError:
        return f"the receipt at {site} is not readable"
    if receipt is None:
        return f"no receipt at {site}"
    if (receipt.manifest, receipt.site) != (manifest.digest, site):
        return f"the receipt at {site} is of another checkpoint or site"
    return None


def lineage(
    store: ObjectStore, run: str, *, epoch: int, fork: EpochFork | None, passed: list[PassedOver]
) -> Iterator[Located]:
    """The selectable checkpoints, newest first; what is unreadable or stale on the way is added to ``passed``."""
    keys = [
        (where, info.key)
        for info in store.list(manifest_prefix(run))
        if (where := parse_manifest_key(info.key)) is not None
    ]
    of_epoch = sorted((item for item in keys if item[0][1] == epoch), reverse=True)
    older = sorted((item for item in keys if item[0][1] < epoch), reverse=True)
    own = _readable(store, run, [key for _, key in of_epoch], passed)
    if fork is None or fork.forked_from is None:
        yield from own
        return
    # An ancestor can be newer than a checkpoint of the epoch itself only when the epoch resumed below its fork point;
    # own checkpoints then still come first: they are what this epoch has done.
    yield from own
    wanted = {fork.forked_from, *fork.ancestors}
    for located in _readable(store, run, [key for _, key in older], passed):
        if located.manifest.digest not in wanted:
            passed.append(PassedOver(located.key, f"not in the lineage of epoch {epoch}"))
            continue
        wanted.update(ancestors_named(located.manifest))
        yield located


def ancestors_named(manifest: CheckpointManifest) -> tuple[str, ...]:
    """Whom a checkpoint descends from, as far as it says, newest first."""
    return manifest.ancestors or ((manifest.parent,) if manifest.parent else ())


def in_line(manifests: Iterable[CheckpointManifest], *, epoch: int, fork: EpochFork | None) -> list[CheckpointManifest]:
    """The same lineage as `lineage`, of manifests that were read before: newest first."""
    ordered = sorted(manifests, key=lambda found: (found.step, found.epoch), reverse=True)
    line = [found for found in ordered if found.epoch == epoch]
    wanted = {fork.forked_from, *fork.ancestors} if fork is not None else set()
    for found in ordered:
        if found.epoch < epoch and found.digest in wanted:
            wanted.update(ancestors_named(found))
            line.append(found)
    return line


def _readable(store: ObjectStore, run: str, keys: list[str], passed: list[PassedOver]) -> Iterator[Located]:
    for key in keys:
        try:
            manifest = parse_manifest(store.get(key), where=key)
        except (CheckpointUnreadable, ObjectNotFound) as error:
            passed.append(PassedOver(key, error.what if error.found is None else f"{error.what}: {error.found}"))
            continue
        if manifest.run != run:
            passed.append(PassedOver(key, f"of another run: {manifest.run}"))
            continue
        yield Located(key, manifest)
