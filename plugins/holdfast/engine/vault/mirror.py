"""Mirrors: the same write-once objects at another site, copied in the order they were written, without any key.

A mirror opens like the vault itself, so a restore works from it when the vault's cloud is gone; and what is damaged in
one is put back from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from holdfast.engine.objectstore.errors import ObjectNotFound, PermissionRefused
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.ages import LogAges, removable_entries
from holdfast.engine.vault.collect import GRACE, ORPHAN_AGE, store_now
from holdfast.engine.vault.errors import Damaged, HistoryDamaged
from holdfast.engine.vault.history import History, load_history, write_hint
from holdfast.engine.vault.log import LogEntry, missing_entry, read_entry, sequences
from holdfast.engine.vault.objects import get_if_there
from holdfast.engine.vault.running import leftover_clocks
from holdfast.engine.vault.vault import Vault

#: What an object names lies in an earlier class than the object.
CLASSES = (layout.KEYS, layout.PACKS, layout.INDEXES)
_COPIES = 8
_HEAL = "`holdfast vault mirror --repair` writes anew what is damaged there"


@dataclass
class MirrorReport:
    """What was copied.

    Args:
        there: objects that were there already.
        removed: objects of the mirror that were collected at the vault (`trim_mirror`).
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
    heal_entry: Callable[[str, bytes], None] | None = None,
) -> MirrorReport:
    """Bring a mirror up to the vault as of now. Can be broken off and run again; needs no key.

    What the vault gains meanwhile waits for the next run: an entry comes after all that it names.

    Args:
        heal_entry: told the key and the right bytes of each entry the mirror has with others. By default what is there
            is not read.

    Raises:
        NoVault: there is nothing to mirror.
        HistoryDamaged: the mirror holds another history: one of the two was rolled back or replaced.
    """
    history = on_one_line(store, mirror)
    skipped = {layout.index_key(name) for name in history.dropped}
    report = MirrorReport()
    for prefix in CLASSES:
        have = {info.key: info.size_bytes for info in mirror.list(prefix)}
        wanted = [
            info
            for info in store.list(prefix)
            if have.get(info.key) != info.size_bytes
            and info.key not in skipped
            and layout.id_of(info.key) not in history.collected
        ]
        report.there += len(have)
        _copy_all(store, mirror, wanted, report, protect, progress)
    _copy_entries(mirror, history, report, protect, heal_entry)
    write_hint(mirror, load_history(mirror))
    progress(report)
    return report


def on_one_line(store: ObjectStore, mirror: ObjectStore) -> History:
    """The vault's history, which the mirror's is a part of. Raises HistoryDamaged."""
    ours = load_history(store)
    numbers = sequences(mirror)
    if numbers and numbers[-1] > ours.tip.sequence:
        ours = load_history(store)  # another run may have copied what was written in between
    if not numbers:
        return ours
    theirs = _newest_readable(mirror, numbers, ours)
    if theirs.sequence > ours.tip.sequence:
        raise HistoryDamaged(
            "the vault lies behind its mirror",
            where=store.name,
            expected=f"entry {theirs.sequence} or a later one",
            found=f"entry {ours.tip.sequence}",
            fix="The vault was rolled back: put its entries back with `holdfast vault verify --repair`",
        )
    if theirs.sequence in ours.counting:  # else an anchor took its place
        try:
            read_entry(store, theirs.sequence, digest=theirs.digest)
        except HistoryDamaged as damaged:
            raise HistoryDamaged(
                "the vault and its mirror hold different histories",
                where=f"{store.name}: entry {theirs.sequence}",
                expected=f"{theirs.digest}, as at the mirror",
                found=damaged.found,
                fix="Somebody replaced entries at one of the two, or another repository lies at the mirror",
            ) from None
    return ours


def _newest_readable(store: ObjectStore, numbers: list[int], ours: History) -> LogEntry:
    """Of a log that may be broken off, what the vault has too, or whose signer might write it when it was written.

    Raises HistoryDamaged: none, or another repository's.
    """
    error: HistoryDamaged | None = None
    for number in reversed(numbers):
        same = ours.entries.get(number)
        with suppress(HistoryDamaged):
            if same is not None:
                return read_entry(store, number, ours.repository, digest=same.digest)
        try:
            entry = read_entry(store, number, ours.repository)
        except HistoryDamaged as damaged:
            error = error or damaged
            continue
        if ours.keys_before(number).entitle(entry):
            return entry
    raise error or missing_entry(store, numbers[0])


def _copy_all(
    store: ObjectStore,
    mirror: ObjectStore,
    wanted: list[ObjectInfo],
    report: MirrorReport,
    protect: Callable[[str], None],
    progress: Callable[[MirrorReport], None],
) -> None:
    def copy(info: ObjectInfo) -> tuple[ObjectInfo | None, str | None]:
        try:
            data = store.get(info.key)
        except ObjectNotFound:  # collected since it was listed
            return None, None
        if create_or_read(mirror, info.key, data) != data:
            return info, f"{mirror.name}: {info.key} is there with other bytes: {_HEAL}"
        protect(info.key)
        return info, None

    with ThreadPoolExecutor(_COPIES) as pool:
        for info, problem in pool.map(copy, wanted):
            if problem is not None:
                report.problems.append(problem)
                continue
            if info is not None:
                report.copied += 1
                report.copied_bytes += info.size_bytes
                progress(report)


def _copy_entries(
    mirror: ObjectStore,
    history: History,
    report: MirrorReport,
    protect: Callable[[str], None],
    heal: Callable[[str, bytes], None] | None,
) -> None:
    """In order, each with its copy: broken off anywhere, the mirror is an older state, or goes on to be one."""
    have = {info.key for prefix in (layout.LOG, layout.LOG_COPIES) for info in mirror.list(prefix)}
    for number, entry in sorted(history.entries.items()):
        keys = [layout.entry_key(number), layout.entry_copy_key(number)]
        report.there += len(have & set(keys))
        data = entry.data
        for key in keys:
            if key in have:
                if heal is not None and get_if_there(mirror, key) != data:
                    heal(key, data)
                continue
            if create_or_read(mirror, key, data) != data:
                report.problems.append(f"{mirror.name}: {key} is there with other bytes: {_HEAL}")
                continue
            protect(key)
            report.copied += 1
            report.copied_bytes += len(data)


def trim_mirror(
    vault: Vault,
    *,
    grace: timedelta = GRACE,
    orphan_age: timedelta = ORPHAN_AGE,
    remove: Callable[[str], None] | None = None,
) -> MirrorReport:
    """Remove from a mirror what was collected at its vault, judged by the mirror's own log and clock.

    What a running copy has brought and nobody names yet is young; where it is removed all the same, the next copy
    brings it again.

    Args:
        vault: opened at the mirror, by any role; the store must let it remove.
        grace: what was collected stays this long after the mirror heard of it, for restores that began before.
        orphan_age: packs and indexes no entry names stay this long, as do leftovers of asking the store for its time.
        remove: removes an object for good where a plain delete only hides it, see `ObjectLocks.remove`.

    Raises:
        RolledBack, HistoryDamaged.
        Damaged: an index is damaged: what is nobody's cannot be told.
    """
    vault = vault.reload(hinted=False)
    vault.refuse_alarm()
    store, history = vault.store, vault.history
    loaded = vault.load_index()
    if loaded.damaged:
        raise Damaged("nothing is removed while an index is damaged", where=vault.name, found=loaded.damaged[0])
    named = {layout.pack_key(info.tier, info.pack_id) for info in loaded.index.packs}
    named |= {layout.index_key(name) for name in history.indexes}
    now = store_now(store)
    ages = LogAges.read(store, now, history)
    said = {**history.collected, **history.dropped}
    gone: list[str] = []
    for prefix in (layout.PACKS, layout.INDEXES):
        for info in store.list(prefix):
            name = layout.id_of(info.key)
            number = None if name is None else said.get(name)
            over = now - info.modified_at > orphan_age if number is None else ages.is_over(number, grace)
            if info.key not in named and over:
                gone.append(info.key)
    for number in removable_entries(store, history, ages, grace):
        gone.extend((layout.entry_key(number), layout.entry_copy_key(number)))
    gone.extend(leftover_clocks(store, now - orphan_age))
    return _remove_all(store, gone, remove or store.delete)


def _remove_all(store: ObjectStore, keys: Iterable[str], remove: Callable[[str], None]) -> MirrorReport:
    report = MirrorReport()
    for key in keys:
        try:
            remove(key)
            report.removed += 1
        except PermissionRefused:
            report.problems.append(f"{store.name}: {key} is locked and stays")
    return report
