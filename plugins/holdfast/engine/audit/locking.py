"""Exports under Object Lock or its equals, for as long as the retention profiles say."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.engine.audit.ledger import SealRecord, seal_key
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, RANGE, TIMESTAMP, Manifest, Retention
from holdfast.engine.audit.retention import profiles_of
from holdfast.engine.config.audit import Audit
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.pipeline.vaults.locking import locks_at
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.locks import LockMode
from holdfast.errors import HoldfastError

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


def lock_export(runtime: Runtime, manifest: Manifest, record: SealRecord, sites: Iterable[str]) -> dict[str, str]:
    """Lock a seal's objects at these sites, until the manifest's moment.

    Returns:
        Per site ``locked until …``, or why it is not.
    """
    retention = manifest.retention
    if retention.lock_mode == "none" or retention.until is None:
        return dict.fromkeys(sites, "not locked: no lock is wanted")
    return {site: _lock(runtime, manifest, record, site, retention.until) for site in sites}


def _lock(runtime: Runtime, manifest: Manifest, record: SealRecord, site: str, until: datetime) -> str:
    assert runtime.topology.audit is not None
    mode = _MODES[manifest.retention.lock_mode]
    try:
        locks = locks_at(runtime, site, below=runtime.topology.audit.prefix)
        capability = locks.capability()
        if not capability.enforces:
            return f"not locked: {capability.why}"
        for name in (*(file.path for file in manifest.files()), RANGE, MANIFEST, CHECKPOINT):
            locks.extend(f"exports/{record.folder}/{name}", until, mode)
        with suppress(ObjectNotFound):  # it was not asked for when this was sealed
            locks.extend(f"exports/{record.folder}/{TIMESTAMP}", until, mode)
        locks.extend(seal_key(record.seal), until, mode)
    except HoldfastError as error:
        return f"not locked: {error}"
    return f"locked until {until:%Y-%m-%d}"
