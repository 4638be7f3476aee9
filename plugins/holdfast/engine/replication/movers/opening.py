"""From an engine's name to what moves the bytes: the only place that knows which service's leaf to take."""

from __future__ import annotations

from holdfast.engine.replication.movers.interface import Hop, Mover


def open_mover(engine: str, hop: Hop) -> Mover | str:
    """The service for a hop, or why it cannot serve it. Nothing is asked yet."""
    if engine == "datasync":
        from holdfast.engine.replication.movers.datasync import DataSync

        return DataSync.unusable(hop) or DataSync(hop)
    if engine == "storage-transfer":
        from holdfast.engine.replication.movers.storage_transfer import StorageTransfer

        return StorageTransfer.unusable(hop) or StorageTransfer(hop)
    if engine == "azcopy":
        from holdfast.engine.replication.movers.azcopy import AzCopy

        return AzCopy.unusable(hop) or AzCopy(hop)
    return f"there is no engine {engine!r}"
