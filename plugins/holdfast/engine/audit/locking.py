"""Exports under Object Lock or its equals, for as long as the retention profiles say."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.engine.audit.before import Before
from holdfast.engine.audit.ledger import Ledger, SealRecord, seal_key
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, RANGE, TIMESTAMP, Manifest, Retention
from holdfast.engine.audit.problems import Kind, Problem
from holdfast.engine.audit.retention import profiles_of
from holdfast.engine.config.audit import Audit
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.pipeline.vaults.locking import locks_at
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.locks import LockMode, ObjectLocks
from holdfast.errors import HoldfastError

#: Seals that one export locks again at most.
_AT_ONCE = 24
_YEAR = timedelta(days=366)
_MODES = {"compliance": LockMode.COMPLIANCE, "governance": LockMode.GOVERNANCE}


def retention_of(settings: Audit, now: datetime, own: Path | None = None) -> Retention:
    """How long an export sealed now is locked.

    Args:
        own: the firm's own profiles, see `known_profiles`.

    Raises:
        ConfigError: a profile that is none.
    """
    profiles = profiles_of(settings.retention, own)
    years = max((profile.years for profile in profiles), default=0.0)
    locks = settings.lock_mode != "none" and years > 0
    return Retention(
        profiles=tuple(profile.name for profile in profiles),
        until=now + years * _YEAR if years else None,
        lock_mode=settings.lock_mode if locks else "none",
    )


class Locking:
    """Locks the seals of a ledger; which are not locked yet, though that was asked for, this machine remembers.

    Args:
        home: what belongs to the ledger on this machine.
    """

    def __init__(self, runtime: Runtime, ledger: Ledger, home: Path) -> None:
        settings = runtime.topology.audit
        assert settings is not None
        self._runtime, self._ledger, self._settings = runtime, ledger, settings
        self.home, self._file = home, home / "unlocked.json"
        held = json.loads(self._file.read_bytes()) if self._file.exists() else {}
        self._open: dict[str, set[int]] = {site: set(held.get(site, ())) for site in ledger.stores}
        self._why: dict[str, str] = {}

    def lock(self, manifest: Manifest, record: SealRecord, sites: Collection[str]) -> dict[str, str]:
        """Lock a seal's objects at these sites until the manifest's moment; at the others it is to be done later.

        Returns:
            Per site ``locked until …``, or why it is not.
        """
        retention = manifest.retention
        if retention.lock_mode == "none" or retention.until is None:
            return dict.fromkeys(sites, "not locked: no lock is wanted")
        told = {}
        for site in self._ledger.stores:
            why = self._lock(manifest, record, site, retention.until) if site in sites else "it lacks the seal"
            self._note(record.seal, site, why)
            if site in sites:
                told[site] = f"not locked: {why}" if why else f"locked until {retention.until:%Y-%m-%d}"
        self._keep()
        return told

    def lock_again(self) -> None:
        """Lock what was not locked before, the oldest first, `_AT_ONCE` seals at most; where one just failed, none."""
        able = [site for site in self._ledger.stores if site not in self._why]
        for number in sorted(set().union(*(self._open[site] for site in able)))[:_AT_ONCE]:
            for site in able:
                if number in self._open[site]:
                    self._note(number, site, self._lock_number(number, site))
        self._keep()

    def problems(self) -> Iterator[Problem]:
        """Where something is not locked that was to be; nothing where the topology wants no locks any more."""
        for site, seals in self._open.items():
            if seals and self._settings.lock_mode != "none":
                which = f"seal {min(seals)}" if len(seals) == 1 else f"{len(seals)} seals, {min(seals)} to {max(seals)}"
                why = self._why.get(site, "it was not tried again yet")
                what = f"not locked, though that was asked for: {which}"
                yield Problem(
                    Kind.INCOMPLETE, "not-locked", what, site, f"a {self._settings.lock_mode} lock", why[:500]
                )

    def _lock_number(self, number: int, site: str) -> str | None:
        """Why an earlier seal cannot be locked; ``None``: it is, or the time it was to be locked for is over."""
        try:
            record = self._ledger.record(number)
            manifest = Before(self._ledger, record).manifest
        except HoldfastError as error:
            return str(error)
        until = manifest.retention.until if manifest else None
        if manifest is None or until is None or until <= self._runtime.clock.now():
            return None
        return self._lock(manifest, record, site, until)

    def _lock(self, manifest: Manifest, record: SealRecord, site: str, until: datetime) -> str | None:
        """Why it is not locked; ``None``: it is."""
        mode = _MODES[manifest.retention.lock_mode]
        try:
            locks = self._locks(site)
            capability = locks.capability()
            if not capability.enforces:
                return capability.why
            for name in (*(file.path for file in manifest.files()), RANGE, MANIFEST, CHECKPOINT):
                locks.extend(f"exports/{record.folder}/{name}", until, mode)
            with suppress(ObjectNotFound):  # it was not asked for when this was sealed
                locks.extend(f"exports/{record.folder}/{TIMESTAMP}", until, mode)
            locks.extend(seal_key(record.seal), until, mode)
        except HoldfastError as error:
            return str(error)
        return None

    def _locks(self, site: str) -> ObjectLocks:
        return locks_at(self._runtime, site, below=self._settings.prefix)

    def _note(self, number: int, site: str, why: str | None) -> None:
        if why is None:
            self._open[site].discard(number)
        else:
            self._open[site].add(number)
            self._why[site] = why

    def _keep(self) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({site: sorted(seals) for site, seals in self._open.items() if seals}))
        draft.replace(self._file)
