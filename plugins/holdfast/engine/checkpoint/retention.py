"""Which checkpoints of a run to keep at a site, and why each. It decides only; `collect` does it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from holdfast.engine.checkpoint.elect import ancestors_named, in_line
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.state import METRICS
from holdfast.engine.snapshot.lineage import EpochFork
from holdfast.errors import ConfigError


class KeepPolicyInvalid(ConfigError):
    """A policy that cannot be meant."""


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """What to keep beyond what is always kept (the newest verified, what a fork names, what links the lineage).

    Args:
        last: so many of the newest of the newest epoch's lineage; at least one.
        every_steps: the first checkpoint at or after each multiple of so many steps; None: no such milestones.
        best: so many of the best by ``metric``.
        metric: a figure that was told with the step (``loss``), or another member of a manifest's ``state``; dots lead
            into nested ones. Also the name for a mapping given to `choose`.
        mode: whether a small or a large metric is good.

    Raises:
        KeepPolicyInvalid: it keeps nothing, or asks for the best of nothing.
    """

    last: int = 3
    every_steps: int | None = None
    best: int = 0
    metric: str | None = None
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.last < 1:
            raise _invalid("last", "1 or more", self.last, "What a run goes on from must stay")
        if self.every_steps is not None and self.every_steps < 1:
            raise _invalid(
                "every_steps", "1 or more steps, or None", self.every_steps, "Leave it out for no milestones"
            )
        if self.best < 0:
            raise _invalid("best", "0 or more", self.best, "Leave it out to keep none by a metric")
        if self.best and not self.metric:
            raise _invalid("metric", "the name of a member of the state", self.metric, "Say what is best by what")
        if self.mode not in ("min", "max"):
            raise _invalid("mode", "min or max", self.mode, "Say whether small or large is good")


@dataclass(frozen=True, slots=True)
class Retained:
    """A checkpoint that stays, and every reason for it."""

    manifest: CheckpointManifest
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retired:
    """A checkpoint that nothing asks for any more, and why it is not asked for."""

    manifest: CheckpointManifest
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Every manifest, in one of the two; newest first."""

    retained: tuple[Retained, ...]
    retired: tuple[Retired, ...]


def choose(
    manifests: Iterable[CheckpointManifest],
    verified: Collection[str],
    policy: KeepPolicy,
    *,
    epoch: int,
    forks: Sequence[EpochFork] = (),
    damaged: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> Choice:
    """What stays and what goes, from facts alone.

    Always kept: the newest verified checkpoint of the lineage, and what is newer than it (an election names those
    when it passes them over); what any fork record names; and where milestones are more than the sixteen named
    ancestors apart, the checkpoints between that link them. Without the links a later epoch, which finds its lineage
    by those names, would take an old milestone for a stale writer's. While nothing of the lineage is verified,
    everything is kept.

    Args:
        verified: digests of checkpoints known to be whole here and now, and electable here.
        epoch: the newest committed epoch.
        forks: the run's fork records in this bucket; that of ``epoch`` among them when it is beyond the first.
        damaged: digests of checkpoints known not to be whole. They do not count as one of the last, a milestone or
            one of the best.
        metrics: digest → figure, instead of the manifest's ``state``.
    """
    known = sorted(manifests, key=lambda found: (found.step, found.epoch), reverse=True)
    line = in_line(known, epoch=epoch, fork=next((fork for fork in forks if fork.epoch == epoch), None))
    newest_verified = next((at for at, found in enumerate(line) if found.digest in verified), None)
    if newest_verified is None:
        return Choice(tuple(Retained(found, ("nothing here is verified",)) for found in known), ())
    reasons: dict[str, list[str]] = {}
    _keep(reasons, [line[newest_verified]], "the newest verified")
    _keep(reasons, line[:newest_verified], "newer than the newest verified")
    sound = [found for found in line if found.digest not in damaged]
    _keep(reasons, sound[: policy.last], f"one of the last {policy.last}")
    if policy.every_steps is not None:
        _keep(reasons, _milestones(sound, policy.every_steps), f"a milestone every {policy.every_steps} steps")
    if policy.best:
        _keep(reasons, _best(sound, policy, metrics), f"one of the best {policy.best} by {policy.metric}")
    _keep(reasons, _links(line, reasons), "links older ones to the lineage")
    for fork in forks:
        _keep(reasons, [found for found in known if found.digest == fork.forked_from], f"epoch {fork.epoch} began here")
    _keep(reasons, [found for found in known if found.epoch > epoch], f"of a newer epoch than {epoch}")
    own = {found.digest for found in line}
    retained, retired = [], []
    for found in known:
        if why := reasons.get(found.digest):
            retained.append(Retained(found, tuple(why)))
        else:
            retired.append(Retired(found, _why_not(found, own, damaged, epoch)))
    return Choice(tuple(retained), tuple(retired))


def _keep(reasons: dict[str, list[str]], found: Iterable[CheckpointManifest], reason: str) -> None:
    for manifest in found:
        reasons.setdefault(manifest.digest, []).append(reason)


def _why_not(found: CheckpointManifest, line: Collection[str], damaged: Collection[str], epoch: int) -> str:
    if found.digest not in line:
        return f"not in the lineage of epoch {epoch}"
    return "damaged" if found.digest in damaged else "the policy asks for others"


def _milestones(line: Sequence[CheckpointManifest], every_steps: int) -> list[CheckpointManifest]:
    """The first at or after each multiple: saves need not fall on it, and the next collection chooses the same."""
    first: dict[int, CheckpointManifest] = {}
    for found in line:  # newest first, so the oldest of each stays
        if found.step >= every_steps:
            first[found.step // every_steps] = found
    return list(first.values())


def _best(
    line: Sequence[CheckpointManifest], policy: KeepPolicy, metrics: Mapping[str, float] | None
) -> list[CheckpointManifest]:
    figures = [(found, _figure(found, policy.metric or "", metrics)) for found in line]
    sign = 1.0 if policy.mode == "min" else -1.0
    known = [(sign * figure, found) for found, figure in figures if figure is not None]
    return [found for _, found in sorted(known, key=lambda item: item[0])[: policy.best]]  # stable: the newer of equals


def _figure(found: CheckpointManifest, metric: str, metrics: Mapping[str, float] | None) -> float | None:
    if metrics is not None:
        value: object = metrics.get(found.digest)
    else:
        told = found.state.get(METRICS)
        if isinstance(told, dict) and metric in told:
            value = told[metric]
        else:
            value = found.state
            for part in metric.split("."):
                value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _links(line: Sequence[CheckpointManifest], kept: Collection[str]) -> list[CheckpointManifest]:
    """The fewest others of the line that must stay so that each kept one names its way to the next older kept one."""
    at = {found.digest: place for place, found in enumerate(line)}
    wanted = [found for found in line if found.digest in kept]
    links: list[CheckpointManifest] = []
    for newer, older in pairwise(wanted):
        here = newer
        while older.digest not in ancestors_named(here):
            # The farthest ancestor that is here, but not beyond the one that is looked for.
            places = [at[name] for name in ancestors_named(here) if at.get(name, len(line)) < at[older.digest]]
            farthest = max(places, default=at[here.digest])
            if farthest <= at[here.digest]:
                break  # the chain is broken here already; nothing that is kept could mend it
            here = line[farthest]
            links.append(here)
    return [found for found in links if found.digest not in kept]


def _invalid(option: str, expected: str, found: object, fix: str) -> KeepPolicyInvalid:
    return KeepPolicyInvalid(
        "this is no policy to keep checkpoints by", where=option, expected=expected, found=repr(found), fix=fix
    )
