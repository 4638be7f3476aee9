"""Repair of the log and the key objects: copies from each other, entries from mirrors, each checked before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, NotEntitled, NoVault, RolledBack, VaultError
from holdfast.engine.vault.history import History, load_history, write_hint
from holdfast.engine.vault.keysets import keyset_name
from holdfast.engine.vault.log import LogEntry, make_entry, parse_entry, sequences
from holdfast.engine.vault.objects import get_if_there
from holdfast.engine.vault.vault import Vault
from holdfast.engine.vault.witness import ask_witnesses, check_witnesses


@dataclass
class Repaired:
    """What a repair did.

    Args:
        healed: keys of objects written anew, with what they were written from.
        lost: what could not be repaired, one sentence each.
        entry: number of the entry that names a new index or goes on after a loss.
        protect: told the key of each object that was put back, to lock it.
    """

    healed: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    entry: int | None = None
    protect: Callable[[str], None] = field(default=lambda _key: None, repr=False)

    def put(self, store: ObjectStore, key: str, data: bytes, source: str) -> None:
        """Replace an object that is missing or wrong. Needs the right to overwrite, which a writer has not."""
        store.put(key, data, mode=OVERWRITE)
        self.protect(key)
        self.healed[key] = source


def repair_log(vault: Vault, mirrors: Sequence[ObjectStore], report: Repaired, *, accept_loss: bool) -> Vault:
    """Make the log whole, from every mirror in turn.

    Args:
        vault: opened by anybody; an administrator where a loss is accepted.
        accept_loss: where entries are nowhere any more, go on with what is left.

    Raises:
        HistoryDamaged: vault and mirrors hold two histories, and the witnesses do not say which is right; or nothing
            of the log can be read, and there is no mirror. Of one mirror beside others it is reported, unless a loss
            would be accepted.
        NotEntitled: a loss is to be accepted, and the keys are not an administrator's.
    """
    ours, broken = _reloaded(vault)
    for mirror in mirrors:
        theirs = _history_of(mirror, vault, report)
        if theirs is None:
            continue
        try:
            _put_entries_back(vault if ours is None else ours, mirror, theirs, report, anew=ours is None)
        except HistoryDamaged as other_line:
            if accept_loss or len(mirrors) == 1:
                raise
            report.lost.append(str(other_line))
            continue
        # What the witnesses did not see is no longer what this knows; what the mirror has not, it still is.
        if vault.history.tip.sequence <= theirs.tip.sequence:
            vault = vault.at(theirs)
        ours, broken = _reloaded(vault)
    if ours is None:
        assert broken is not None
        raise broken
    vault = ours
    if vault.alarm is not None and accept_loss:
        vault = _go_on(vault, report)
    _heal_copies(vault, report)
    if vault.alarm is not None:
        report.lost.append(str(vault.alarm))
    return vault


def _reloaded(vault: Vault) -> tuple[Vault | None, HistoryDamaged | NoVault | None]:
    """The vault as of now, or why nothing of its log can be read."""
    try:
        return vault.reload(hinted=False), None
    except (HistoryDamaged, NoVault) as broken:
        return None, broken


def _history_of(mirror: ObjectStore, vault: Vault, report: Repaired) -> History | None:
    """The mirror's, where it can be followed from end to end."""
    try:
        return load_history(mirror, vault.secrets)
    except NoVault:
        return None
    except VaultError as damaged:
        report.lost.append(f"the log of the mirror {mirror.name} cannot be used: {damaged}")
        return None


def _put_entries_back(vault: Vault, mirror: ObjectStore, theirs: History, report: Repaired, *, anew: bool) -> None:
    """Entries the mirror has and the vault needs: those an anchor there names, and all since.

    Args:
        anew: nothing of the vault's own log can be read: it needs all that counts at the mirror.
    """
    ours = vault.history
    wanted = theirs.counting
    if not anew:
        state = ours.recent[0].public.get("state", {})
        named = {int(number) for number, _ in (*state.get("live", ()), *state.get("keys", ()))}
        wanted = tuple(number for number in wanted if number >= ours.anchor_at or number in named)
    lacking: list[tuple[LogEntry, str]] = []
    for number in wanted:
        good = theirs.entries[number]
        for key in (layout.entry_key(number), layout.entry_copy_key(number)):
            there = _entry_at(vault.store, key, ours.repository)
            if isinstance(there, LogEntry) and there.digest != good.digest:
                _check_right(vault, mirror, theirs, good)
            if not isinstance(there, LogEntry) or there.digest != good.digest:
                lacking.append((good, key))
    for entry, key in lacking:
        report.put(vault.store, key, entry.data, mirror.name)


def _entry_at(store: ObjectStore, key: str, repository: bytes) -> LogEntry | None:
    try:
        return parse_entry(store.get(key), f"{store.name}: {key}", repository=repository)
    except (ObjectNotFound, HistoryDamaged):
        return None


def _check_right(vault: Vault, mirror: ObjectStore, theirs: History, entry: LogEntry) -> None:
    """That the mirror's entry is the true one, where the vault has another of its number."""
    told = ask_witnesses(theirs, vault.witnesses)
    seen = [witness for witness in told if witness.sequence is not None and witness.sequence in theirs.counting]
    try:
        check_witnesses(mirror, theirs, told)
        if seen and isinstance(vault.alarm, RolledBack):
            return
    except RolledBack:
        pass
    raise HistoryDamaged(
        "the vault and its mirror hold different histories, and no witness says which is right",
        where=f"{vault.store.name}: entry {entry.sequence}",
        expected=f"{entry.digest}, as at the mirror",
        found="another entry",
        fix="Compare them by hand: restore from either into a new place; nothing was changed",
    )


def _go_on(vault: Vault, report: Repaired) -> Vault:
    """Write an anchor after everything that is there or was witnessed: what it does not name is given up."""
    secrets, history, store = vault.secrets, vault.history, vault.store
    if secrets.role != "admin":
        raise NotEntitled(
            "only an administrator gives up entries of the log", where=vault.name, expected="admin", found=secrets.role
        )
    told = ask_witnesses(history, vault.witnesses)
    number = max(history.tip.sequence, *(witness.sequence or 0 for witness in told)) + 1
    taken = set(sequences(store))
    while number in taken:
        number += 1
    data = make_entry(
        secrets,
        sequence=number,
        previous=history.tip.digest,
        kind="collect",
        created_at=vault.clock.now(),
        write_id=hashlib.sha256(f"repair {number} {history.tip.digest}".encode()).hexdigest()[:32],
        public={"state": history.state()},
        body={"given_up": str(vault.alarm)},
    )
    key = layout.entry_key(number)
    entry = parse_entry(create_or_read(store, key, data), f"{store.name}: {key}", repository=secrets.repository)
    create_or_read(store, layout.entry_copy_key(number), entry.data)
    report.entry = entry.sequence
    vault = replace(vault, alarm=None).commit(entry)
    write_hint(store, vault.history)
    return vault.reload(hinted=False)


def _heal_copies(vault: Vault, report: Repaired) -> None:
    """Each entry as the history has it: of two that differ, the one that is chained."""
    for number, good in sorted(vault.history.entries.items()):
        for key in (layout.entry_key(number), layout.entry_copy_key(number)):
            there = _entry_at(vault.store, key, good.repository)
            if there is None or there.digest != good.digest:
                report.put(vault.store, key, good.data, "its copy")


# -- key objects -------------------------------------------------------------------------------------------------------


def repair_keys(vault: Vault, mirrors: Sequence[ObjectStore], report: Repaired) -> None:
    """Make both copies of every key object whole. Which bytes are right, its name says: it is their digest."""
    for role, keyset_id in vault.history.keys.keysets.items():
        keys = [layout.keyset_key(keyset_id, copy) for copy in layout.KEY_COPIES]
        there = {key: get_if_there(vault.store, key) for key in keys}
        backed = [get_if_there(mirror, key) for mirror in mirrors for key in keys]
        whole = [data for data in (*there.values(), *backed) if data is not None and keyset_name(data) == keyset_id]
        if not whole:
            report.lost.append(
                f"the {role}'s key object {keyset_id} is gone or changed in every copy of the vault: rotate the keys"
            )
            continue
        for key, data in there.items():
            if data != whole[0]:
                source = "its copy" if whole[0] in there.values() else "another copy of the vault"
                report.put(vault.store, key, whole[0], source)
