"""A run's checkpoints at every site: what lies there, what of it counts, and whether its bytes are whole.

Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Literal

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint import CheckpointManifest, CheckpointUnreadable, FormatUnknown
from holdfast.engine.checkpoint.elect import lineage, refusal
from holdfast.engine.checkpoint.format import manifest_prefix, parse_manifest, parse_manifest_key, run_root
from holdfast.engine.checkpoint.verify import LAYOUT_BLOB, blob_damage, content_sizes
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.runs import NoRun, is_known, owner_of, sites_of
from holdfast.engine.recovery.residency import checkpoints_allowed
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import EpochUnknownHere
from holdfast.engine.snapshot.lineage import require_fork

#: ``own``: written at this site; ``yes``: read back here; the rest says why an election here does not take it.
Receipt = str
Verdict = Literal["intact", "damaged", "nothing to verify", "unknown"]


@dataclass(frozen=True, slots=True)
class ListedCheckpoint:
    """One manifest at one site. What an unreadable one does not tell is ``None``, and ``unreadable`` says why.

    Args:
        written_at: the site that wrote it.
        size_bytes: of its blobs in the store; ``content_bytes``: of what they decode to.
        encoded: how many of its blobs lie compressed.
        receipt: ``own`` where it was written here, ``yes`` where this site's receipt is there, else what is missing.
        in_lineage: whether the newest epoch descends from it; ``None``: this site does not know that epoch.
        warnings: what the writer found odd.
        alarm: its model is byte for byte that of the checkpoint before it in the lineage, though steps were done.
    """

    key: str
    step: int
    epoch: int
    written_at: str | None = None
    digest: str | None = None
    model_digest: str | None = None
    size_bytes: int | None = None
    content_bytes: int | None = None
    encoded: int | None = None
    saved_at: datetime | None = None
    receipt: Receipt | None = None
    in_lineage: bool | None = None
    warnings: tuple[str, ...] = ()
    alarm: str | None = None
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class SiteCheckpoints:
    """A run's checkpoints at one site, newest first; ``error`` says why they are not known, or not their lineage."""

    site: str
    checkpoints: tuple[ListedCheckpoint, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointListing:
    """What `list_checkpoints` found."""

    group: str
    job: str
    run: str
    epoch: int
    active_site: str
    sites: tuple[SiteCheckpoints, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """Each alarm once, whatever sites it lies at."""
        found = (one.alarm for site in self.sites for one in site.checkpoints if one.alarm is not None)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """One checkpoint whose every blob was read.

    ``damage`` is None when each had its size and digest, and the ``encoded`` ones of them decoded to what the manifest
    names: ``content_bytes`` in all, plain ones included. ``unknown`` says why nothing was read: its format is a later
    version's, so it may well be whole.
    """

    key: str
    step: int
    epoch: int
    blobs: int
    size_bytes: int
    damage: str | None
    encoded: int = 0
    content_bytes: int = 0
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class SiteVerification:
    """What was read at one site.

    ``read_bytes`` is less than the checkpoints' sizes where they share blobs: each is read once. ``error``: the site
    did not answer, so of what was not read yet nothing is known.
    """

    site: str
    checkpoints: tuple[VerifiedCheckpoint, ...]
    read_bytes: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointVerification:
    """What `verify_checkpoints` found."""

    run: str
    sites: tuple[SiteVerification, ...]

    @property
    def verdict(self) -> Verdict:
        """Damage outweighs what is not known, and that outweighs everything: unknown is never a pass."""
        if any(one.damage for site in self.sites for one in site.checkpoints):
            return "damaged"
        if any(site.error or any(one.unknown for one in site.checkpoints) for site in self.sites):
            return "unknown"
        return "intact" if any(site.checkpoints for site in self.sites) else "nothing to verify"


def list_checkpoints(
    runtime: Runtime, run: str, *, group: str | None = None, site: str | None = None
) -> CheckpointListing:
    """Every manifest of a run, per site.

    Raises:
        NoRun: it cannot be told whose run it is, or no site holds anything of it.
        UnknownName, ConfigError: the group or the site.
        GroupNotInitialised, NoMajority: see `require_active`. A site that does not answer is reported, not raised.
    """
    owner = owner_of(runtime.topology, run, group=group)
    state = require_active(runtime, owner.group)
    sites = sites_of(runtime.topology, owner.group, active=state.active_site, site=site)
    found = tuple(_list_site(runtime, owner.job, run, name, state) for name in sites)
    if not any(one.checkpoints for one in found):
        _require_trace(runtime, owner.group, run, state)
    return CheckpointListing(owner.group, owner.job, run, state.epoch, state.active_site, found)


def verify_checkpoints(
    runtime: Runtime, run: str, *, group: str | None = None, site: str | None = None, step: int | None = None
) -> CheckpointVerification:
    """Read every blob of a run's checkpoints back, hash it, and decode and hash it where it is encoded; each blob once
    per site.

    Args:
        step: only the checkpoints of this step, of whatever epoch.

    Raises: as `list_checkpoints`.
    """
    owner = owner_of(runtime.topology, run, group=group)
    state = require_active(runtime, owner.group)
    sites = sites_of(runtime.topology, owner.group, active=state.active_site, site=site)
    return CheckpointVerification(run, tuple(_verify_site(runtime.store(name), name, run, step) for name in sites))


def with_alarms(line: Iterable[CheckpointManifest]) -> dict[str, str]:
    """Digest → alarm, for each checkpoint of a lineage whose model equals the one before it though steps were done."""
    ordered = sorted(line, key=lambda one: (one.step, one.epoch))
    return {
        later.digest: f"the model at step {later.step} is identical to step {earlier.step}'s: nothing was learnt"
        for earlier, later in pairwise(ordered)
        if later.model_digest == earlier.model_digest and later.step > earlier.step
    }


def _require_trace(runtime: Runtime, group: str, run: str, state: EpochState) -> None:
    """Raises NoRun: every site answers, and none holds anything of the run."""
    sites = sites_of(runtime.topology, group, active=state.active_site)
    try:
        if any(is_known(runtime.store(name), run) for name in sites):
            return
    except ObjectStoreError:
        return
    raise NoRun(
        "there is no such run",
        where=f"run {run}",
        expected=f"a job, a checkpoint or a fork record of it at {', '.join(sites)}",
        found="nothing",
    )


def _list_site(runtime: Runtime, job: str, run: str, site: str, state: EpochState) -> SiteCheckpoints:
    store = runtime.store(site)
    try:
        read = [found for key in _keys(store, run, None) if (found := _listed(store, run, key)) is not None]
        known = {listed.key: manifest for listed, manifest in read if manifest is not None}
        line, error = _line(store, run, state.epoch)
        allowed = checkpoints_allowed(runtime.topology, job, site, preview=True)
        alarms = with_alarms(manifest for key, manifest in known.items() if line is not None and key in line)
        checkpoints = []
        for listed, manifest in read:
            if manifest is None:
                checkpoints.append(listed)
                continue
            against = refusal(store, manifest, site=site, allowed=allowed)
            checkpoints.append(
                replace(
                    listed,
                    receipt=against or ("own" if manifest.site == site else "yes"),
                    in_lineage=None if line is None else listed.key in line,
                    alarm=alarms.get(manifest.digest),
                )
            )
    except ObjectStoreError as failure:
        return SiteCheckpoints(site, error=str(failure))
    return SiteCheckpoints(site, tuple(checkpoints), error)


def _line(store: ObjectStore, run: str, epoch: int) -> tuple[frozenset[str] | None, str | None]:
    """The keys of the lineage, or why it is not known here."""
    try:
        fork = require_fork(store, run_root(run), epoch)
    except EpochUnknownHere as error:
        return None, str(error)
    return frozenset(one.key for one in lineage(store, run, epoch=epoch, fork=fork, passed=[])), None


def _keys(store: ObjectStore, run: str, step: int | None) -> list[str]:
    """The keys of a run's manifests, newest first."""
    found = [(where, info.key) for info in store.list(manifest_prefix(run)) if (where := parse_manifest_key(info.key))]
    return [key for where, key in sorted(found, reverse=True) if step is None or where[0] == step]


def _listed(store: ObjectStore, run: str, key: str) -> tuple[ListedCheckpoint, CheckpointManifest | None] | None:
    step, epoch = parse_manifest_key(key) or (0, 0)
    try:
        manifest, against = _read_manifest(store, run, key)
    except FormatUnknown as error:
        manifest, against = None, _said(error)
    if manifest is None:
        return None if against is None else (ListedCheckpoint(key, step, epoch, unreadable=against), None)
    return (
        ListedCheckpoint(
            key=key,
            step=step,
            epoch=epoch,
            written_at=manifest.site,
            digest=manifest.digest,
            model_digest=manifest.model_digest,
            size_bytes=manifest.size_bytes,
            content_bytes=manifest.content_bytes,
            encoded=manifest.encoded,
            saved_at=manifest.saved_at,
            warnings=manifest.warnings,
        ),
        manifest,
    )


def _read_manifest(store: ObjectStore, run: str, key: str) -> tuple[CheckpointManifest | None, str | None]:
    """The manifest, or why it is none of this run; neither when a collection has just removed it.

    Raises:
        FormatUnknown: it is not for this version to say.
    """
    try:
        manifest = parse_manifest(store.get(key), where=key)
    except ObjectNotFound:
        return None, None
    except FormatUnknown:
        raise
    except CheckpointUnreadable as error:
        return None, _said(error)
    if manifest.run != run:
        return None, f"of another run: {manifest.run}"
    return manifest, None


def _said(error: CheckpointUnreadable) -> str:
    return f"{error.what}: {error.found}"


def _verify_site(store: ObjectStore, site: str, run: str, step: int | None) -> SiteVerification:
    done: list[VerifiedCheckpoint] = []
    blobs: dict[object, str | None] = {}
    read_bytes = 0
    try:
        for key in _keys(store, run, step):
            at = parse_manifest_key(key) or (0, 0)
            try:
                manifest, against = _read_manifest(store, run, key)
            except FormatUnknown as error:
                done.append(VerifiedCheckpoint(key, *at, blobs=0, size_bytes=0, damage=None, unknown=_said(error)))
                continue
            if manifest is None:
                if against is not None:
                    done.append(VerifiedCheckpoint(key, *at, blobs=0, size_bytes=0, damage=against))
                continue
            sizes = content_sizes(manifest)
            for name, reference in manifest.blobs.items():
                # What a layout of shards must fit is its own manifest's blobs.
                same = (name, reference, manifest.digest if name == LAYOUT_BLOB else None)
                if same not in blobs:
                    blobs[same] = blob_damage(store, run, name, reference, sizes=sizes)
                    read_bytes += reference.size_bytes if blobs[same] is None else 0
                against = against or blobs[same]
            if against is None or _is_there(store, key):
                done.append(_verified(key, manifest, against))
    except ObjectStoreError as error:
        return SiteVerification(site, tuple(done), read_bytes, str(error))
    return SiteVerification(site, tuple(done), read_bytes)


def _verified(key: str, manifest: CheckpointManifest, against: str | None) -> VerifiedCheckpoint:
    return VerifiedCheckpoint(
        key,
        manifest.step,
        manifest.epoch,
        blobs=len(manifest.blobs),
        size_bytes=manifest.size_bytes,
        damage=against,
        encoded=manifest.encoded,
        content_bytes=manifest.content_bytes,
    )


def _is_there(store: ObjectStore, key: str) -> bool:
    """Whether the manifest is there still: a collection takes it first and its blobs after."""
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True
