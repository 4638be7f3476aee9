"""Bringing sealed exports from one of the ledger's sites, to be verified where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast.engine.audit.folders import new_folder
from holdfast.engine.audit.ledger import Ledger
from holdfast.errors import UnknownName


def fetch_exports(
    ledger: Ledger, output: Path, seals: Sequence[int] = (), *, last: int = 1, site: str | None = None
) -> Iterator[tuple[int, Path]]:
    """Bring exports into folders of their own; one that is there already is left alone.

    Interrupted, it goes on where it was. Nothing is checked: `verify_exports` does that.

    Args:
        output: where the folders go, named as in the ledger.
        seals: which; none: the newest ``last``.
        site: where they are read; by default where they are ordered.

    Returns:
        Each seal's number and folder, as they come.

    Raises:
        UnknownName: no such site, or no such seal.
        ConfigError: it cannot be written.
        Tampered, ObjectStoreError: as `Ledger.fetch` and `Ledger.record`.
    """
    at = site or ledger.first
    if at not in ledger.stores:
        raise UnknownName("the ledger does not lie there", where=at, expected=", ".join(ledger.stores), found=at)
    numbers = list(seals) or ledger.numbers(at)[-last:]
    if not numbers:
        raise UnknownName("nothing was sealed yet", where=ledger.stores[at].name, expected="a seal", found="none")
    for number in numbers:
        record = ledger.record(number, at)
        folder = output / record.folder
        if not folder.exists():
            with new_folder(folder) as made:
                ledger.fetch(record, made, site=at)
        yield number, folder
