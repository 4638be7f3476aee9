"""How long each object of a vault is locked, and what locks it once it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from holdfast.engine.objectstore.errors import NotSupported
from holdfast.engine.vault import layout
from holdfast.engine.vault.locks.interface import LockMode, ObjectLocks
from holdfast.engine.vault.locks.none import NoLocks
from holdfast.errors import ConfigError

_PREFIXES = (layout.PACKS, layout.INDEXES, layout.LOG, layout.LOG_COPIES, layout.KEYS, layout.WITNESS)


def class_of(key: str) -> str | None:
    """The class of an object of a vault; ``None``: it is one nothing depends on, such as the head, and never locked."""
    return next((prefix.rstrip("/") for prefix in _PREFIXES if key.startswith(prefix)), None)


@dataclass(frozen=True)
class LockPolicy:
    """How long objects are locked from when they are written, and again at each renewal.

    Args:
        tiers: by retention tier, of its packs. A tier without one is not locked.
        roots: of entries, indexes, keys and witnesses, on which all backups depend; by default the longest tier's.
        mode: who can lift a lock before its time.
        least: the share of a period that must always be left; what has less is renewed, and is reported.

    Raises:
        ConfigError: a tier that is none, a period below a minute, or a share not between 0 and 1.
    """

    tiers: Mapping[str, timedelta]
    roots: timedelta | None = None
    mode: LockMode = LockMode.COMPLIANCE
    least: float = 0.5

    def __post_init__(self) -> None:
        for tier in self.tiers:
            layout.check_tier(tier)
        periods = [*self.tiers.values(), *([] if self.roots is None else [self.roots])]
        if not periods or min(periods) < timedelta(minutes=1) or not 0 < self.least < 1:
            raise ConfigError(
                "a lock policy that locks nothing",
                expected="a period of a minute or more for a tier, and `least` between 0 and 1",
                found=str(self),
            )

    def period(self, key: str) -> timedelta | None:
        """Of an object by its key; ``None``: it is not locked."""
        kind = class_of(key)
        if kind is None:
            return None
        pack = layout.parse_pack_key(key)
        if kind == layout.PACKS.rstrip("/"):
            return self.tiers.get(pack[0]) if pack else None
        return self.roots if self.roots is not None else max(self.tiers.values())


@dataclass
class Protector:
    """Locks what it is told was written: pass it as ``protect`` wherever a vault is written.

    The period counts from when the store says the object was written: no clock of whoever writes is asked.

    Args:
        locks: of the store that is written. `NoLocks`, chosen knowingly, locks nothing.
        policy: how long.
        protected: how many were locked.

    Raises:
        NotSupported: the bucket keeps no locks, and nobody chose to do without.
    """

    locks: ObjectLocks
    policy: LockPolicy
    protected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        capability = self.locks.capability()
        self._works = capability.enforces
        if not self._works and not isinstance(self.locks, NoLocks):
            raise NotSupported(
                "the bucket keeps no locks",
                where=self.locks.name,
                expected="object locks, enabled for the bucket",
                found=capability.why,
                fix="Enable them, or choose a vault without locks",
            )

    def __call__(self, key: str) -> None:
        period = self.policy.period(key)
        if period is None or not self._works:
            return
        self.locks.extend(key, self.locks.state(key).written_at + period, self.policy.mode)
        self.protected += 1
