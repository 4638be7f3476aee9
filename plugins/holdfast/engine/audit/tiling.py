"""A ledger's tiles at its sites: written after each seal, and made up for where something kept them from being written.

Tiles follow from the leaves of the seals' exports. Proofs for others' tools come from them; no verification needs them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.leaves import export_leaves
from holdfast.engine.audit.ledger import Ledger, SealRecord
from holdfast.engine.audit.manifest import MANIFEST, parse_manifest
from holdfast.engine.audit.tlog.errors import TileWrong
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT, CompactRange
from holdfast.engine.audit.tlog.tiles import append_tiles, copy_tiles, edge, range_of_edge, tiles_in
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.errors import HoldfastError


def write_tiles(
    ledger: Ledger, site: str, previous: SealRecord | None, leaves: Iterable[Sequence[bytes]], scratch: Path
) -> HoldfastError | None:
    """Write a seal's tiles at a site, and before them those that an earlier seal still lacks there.

    Args:
        previous: the seal before.
        leaves: of the seal, in runs.
        scratch: a folder of this function's own, for what must be fetched.

    Returns:
        What kept it from that; the next seal makes up for it.
    """
    try:
        if previous is not None:
            bring_tiles(ledger, site, previous, scratch)
        append_tiles(ledger.stores[site], *_size_and_root(previous), leaves)
    except HoldfastError as error:
        return error
    return None


def bring_tiles(ledger: Ledger, site: str, record: SealRecord, scratch: Path) -> None:
    """Make a site's tiles those of this seal: by another site's, or else by the exports of the seals they lack.

    Raises:
        Tampered: an export has other leaves than were sealed.
        TileWrong: other tiles are there.
        ObjectStoreError.
    """
    if _has_tiles(ledger, site, record):
        return
    for other in ledger.stores:
        if other != site and _has_tiles(ledger, other, record):
            copy_tiles(tiles_in(ledger.stores[other]), ledger.stores[site], *_size_and_root(record))
            return
    lacking = [record]
    while lacking[-1].seal and not _has_tiles(ledger, site, before := ledger.record(lacking[-1].seal - 1)):
        lacking.append(before)
    for one in reversed(lacking):
        _append_export(ledger, site, one, scratch)


def _has_tiles(ledger: Ledger, site: str, record: SealRecord) -> bool:
    """Whether the tiles of the right edge are this seal's: they are written last. A site that is away has none."""
    with suppress(TileWrong, ObjectStoreError):
        rows = edge(record.size, tiles_in(ledger.stores[site]))
        return range_of_edge(rows, record.size).root.hex() == record.root
    return False


def _append_export(ledger: Ledger, site: str, record: SealRecord, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    ledger.fetch(record, scratch)
    manifest = parse_manifest((scratch / MANIFEST).read_bytes(), str(scratch / MANIFEST))
    previous = ledger.record(record.seal - 1) if record.seal else None
    tree = previous.range if previous else CompactRange()
    for run in export_leaves(scratch, manifest):
        tree = tree.append(run)
    if tree.root.hex() != record.root:
        raise Tampered(
            "the export has other leaves than were sealed, so its tiles are not written",
            where=f"exports/{record.folder}",
            expected=f"root {record.root}",
            found=f"root {tree.root.hex()}",
        )
    append_tiles(ledger.stores[site], *_size_and_root(previous), export_leaves(scratch, manifest))
    shutil.rmtree(scratch, ignore_errors=True)


def _size_and_root(record: SealRecord | None) -> tuple[int, bytes]:
    return (record.size, bytes.fromhex(record.root)) if record else (0, EMPTY_ROOT)
