"""Mirrors: the same write-once objects at another site, copied in the order they were written, without any key.

A mirror opens like the vault itself, so a restore works from it when the vault's cloud is gone; and what is damaged in
one is put back from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from holdfast.engine.objectstore.interface import OVERWRITE, ObjectInfo, ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, NoVault
from holdfast.engine.vault.history import load_history, write_hint
from holdfast.engine.vault.log import read_entry

#: What an object names lies in an earlier class than the object.
CLASSES = (layout.KEYS, layout.PACKS, layout.INDEXES, layout.LOG_COPIES, layout.LOG)
_COPIES = 8


@dataclass
class MirrorReport:
    """What was copied.

    Args:
        removed: objects that are gone at the vault because they were collected, and now here too.
    """

    copied: int = 0
    copied_bytes: int = 0
    there: int = 0
    removed: int = 0
    problems: list[str] = field(default_factory=list)


def mirror_vault(
    store: ObjectStore,
    mirror: ObjectStore,
    *,
    protect: Callable[[str], None] = lambda _key: None,
    progress: Callable[[MirrorReport], None] = lambda _report: None,
) -> MirrorReport:
    """Bring a mirror up to the vault. Can be broken off and run again; needs no key.

    Raises:
        NoVault: there is nothing to mirror.
        HistoryDamaged: the mirror holds another history: one of the two was rolled back or replaced.
    """
    load_history(store)
    _check_same_line(store, mirror)
    report = MirrorReport()
    for prefix in CLASSES:
        have = {info.key: info.size_bytes for info in mirror.list(prefix)}
        wanted = [info for info in store.list(prefix) if have.get(info.key) != info.size_bytes]
        report.there += len(have)
        if prefix == layout.LOG:
            wanted.sort(key=lambda info: info.key)
            _copy_all(store, mirror, iter(wanted), report, protect, progress, threads=1)
        else:
            _copy_all(store, mirror, iter(wanted), report, protect, progress, threads=_COPIES)
    history = load_history(mirror)
    write_hint(mirror, history)
    return report


def _check_same_line(store: ObjectStore, mirror: ObjectStore) -> None:
    try:
        theirs = load_history(mirror)
    except NoVault:
        return
    ours = load_history(store)
    if theirs.repository != ours.repository:
        raise HistoryDamaged(
            "another repository lies at the mirror",
            where=mirror.name,
            expected=ours.repository.hex(),
            found=theirs.repository.hex(),
            fix="Name another prefix for the mirror",
        )
    if theirs.tip.sequence > ours.tip.sequence:
        raise HistoryDamaged(
            "the vault lies behind its mirror",
            where=store.name,
            expected=f"entry {theirs.tip.sequence} or a later one",
            found=f"entry {ours.tip.sequence}",
            fix="The vault was rolled back: put its entries back with `holdfast vault verify --repair`",
        )
    if theirs.tip.sequence == ours.tip.sequence:
        same = theirs.tip.digest == ours.tip.digest
    else:
        try:
            same = read_entry(store, theirs.tip.sequence).digest == theirs.tip.digest
        except HistoryDamaged:
            same = True  # an anchor took its place and it was removed
    if not same:
        raise HistoryDamaged(
            "the vault and its mirror hold different histories",
            where=f"{store.name}: entry {theirs.tip.sequence}",
            expected=theirs.tip.digest,
            found="another entry",
            fix="Somebody replaced entries at one of the two; the witnesses say at which",
        )


def _copy_all(
    store: ObjectStore,
    mirror: ObjectStore,
    wanted: Iterator[ObjectInfo],
    report: MirrorReport,
    protect: Callable[[str], None],
    progress: Callable[[MirrorReport], None],
    *,
    threads: int,
) -> None:
    def copy(info: ObjectInfo) -> tuple[ObjectInfo, str | None]:
        data = store.get(info.key)
        if create_or_read(mirror, info.key, data) != data:
            return info, f"{mirror.name}: {info.key} is there with other bytes"
        protect(info.key)
        return info, None

    with ThreadPoolExecutor(threads) as pool:
        for info, problem in pool.map(copy, wanted):
            if problem is not None:
                report.problems.append(problem)
                continue
            report.copied += 1
            report.copied_bytes += info.size_bytes
            progress(report)


def put_back(store: ObjectStore, mirror: ObjectStore, keys: list[str]) -> list[str]:
    """Replace damaged or missing objects by the mirror's. Returns the keys that were put back.

    The caller verified them before and verifies them again. Needs the right to overwrite, which a writer has not; with
    a lock in force the good version is added, and the damaged one stays as an older version.
    """
    done: list[str] = []
    for key in keys:
        data = mirror.get(key)
        store.put(key, data, mode=OVERWRITE)
        done.append(key)
    return done
