"""What to try when a machine is lost or not to be had: small registered classes, as SkyPilot has them.

A strategy only ranks: given where a job may run and what became of its attempts, in which order to ask for a machine.
Whether it is asked for at all is decided in `placement`, the same way for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.engine.compute.interface import JobState
from holdfast.engine.config.compute import Placement
from holdfast.errors import ConfigError, UnknownName


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job: where it was asked for and what became of it."""

    placement: Placement
    state: JobState

    @property
    def ran(self) -> bool:
        """Whether it got a machine."""
        return self.state is not JobState.NO_CAPACITY


class RecoveryStrategy(Protocol):
    """The order in which placements are tried."""

    def ranked(self, placements: Sequence[Placement], history: Sequence[Attempt]) -> Sequence[Placement]:
        """Where to ask next, best first. Pure: it knows nothing but its arguments.

        Args:
            placements: where the job may run at the active site, in the order of the topology; at least one.
            history: its attempts at this site, oldest first; empty for the first.

        Returns:
            Those it allows; none: this strategy has nowhere to go after such a history.
        """


_REGISTERED: dict[str, RecoveryStrategy] = {}


def register_recovery(name: str) -> Callable[[type[RecoveryStrategy]], type[RecoveryStrategy]]:
    """A class decorator: the strategy that ``recovery: <name>`` of a training job means. It is made without arguments.

    Raises:
        ConfigError: another class has the name, or the class cannot rank: when it is imported, not when it counts.
    """

    def add(kind: type[RecoveryStrategy]) -> type[RecoveryStrategy]:
        before = _REGISTERED.get(name)
        ranks = callable(getattr(kind, "ranked", None))
        if not ranks or (before is not None and type(before).__qualname__ != kind.__qualname__):
            raise ConfigError(
                "a recovery strategy cannot be registered",
                where=f"{kind.__module__}.{kind.__qualname__}",
                expected="a name of its own and the method `ranked` of RecoveryStrategy",
                found=f"{name} is {type(before).__qualname__}" if ranks else "no `ranked`",
            )
        _REGISTERED[name] = kind()
        return kind

    return add


def recovery_strategy(name: str) -> RecoveryStrategy:
    """The strategy of a name. Raises UnknownName: there is none."""
    if name not in _REGISTERED:
        raise UnknownName(
            "there is no such recovery strategy",
            where="training job: recovery",
            expected=" or ".join(sorted(_REGISTERED)),
            found=name,
            fix="Name one of them, or import the module that registers it first",
        )
    return _REGISTERED[name]


@register_recovery("next-placement")
class NextPlacement:
    """Leave the place that was lost.

    1. The first attempt asks for the placements in their order.
    2. A machine was lost or taken away: the placements after it, then round to it again.
    """

    def ranked(self, placements: Sequence[Placement], history: Sequence[Attempt]) -> Sequence[Placement]:
        last = _last_that_ran(history)
        if last is None or last.placement not in placements:
            return placements
        after = list(placements).index(last.placement) + 1
        return [*placements[after:], *placements[:after]]


@register_recovery("same-placement-first")
class SamePlacementFirst:
    """Go back to the place that was lost, where the data and the images are warm.

    1. The first attempt asks for the placements in their order.
    2. A machine was lost or taken away: the same placement again, then the others in their order.
    """

    def ranked(self, placements: Sequence[Placement], history: Sequence[Attempt]) -> Sequence[Placement]:
        last = _last_that_ran(history)
        return placements if last is None else sorted(placements, key=lambda one: one != last.placement)


@register_recovery("on-demand-after-preemption")
class OnDemandAfterPreemption:
    """Pay for a machine that stays, once one was taken away.

    1. Until then as the placements stand, a lost machine's placement last.
    2. A machine was taken away, ever: the placements without spot in their order, and no others.
    """

    def ranked(self, placements: Sequence[Placement], history: Sequence[Attempt]) -> Sequence[Placement]:
        if any(one.state is JobState.PREEMPTED for one in history):
            return [one for one in placements if not one.spot]
        last = _last_that_ran(history)
        return placements if last is None else sorted(placements, key=lambda one: one == last.placement)


def _last_that_ran(history: Sequence[Attempt]) -> Attempt | None:
    return next((one for one in reversed(history) if one.ran), None)
