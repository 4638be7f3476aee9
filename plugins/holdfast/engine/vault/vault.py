"""An opened vault: its store, its secrets, its history, what its witnesses say, and where its chunks lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from blake3 import blake3

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ByteRange, ObjectInfo, ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append, check_current
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, Outdated, RolledBack, WrongKey
from holdfast.engine.vault.history import History, load_history, write_hint
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, IndexPart, decode_index, part_of
from holdfast.engine.vault.keys import Keys
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.pack import TAIL_READ_BYTES, PackInfo, read_table
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.secrets import NewSecrets, Secrets, public_of
from holdfast.engine.vault.witness import Witness, ask_witnesses, check_witnesses, write_witness

_READERS = 8
_TRIES = 3
_T = TypeVar("_T")


@dataclass(frozen=True)
class PackPresence:
    """The packs that are there: by id, tier and size as the store lists them."""

    sizes: Mapping[bytes, tuple[str, int]]


@dataclass(frozen=True)
class LoadedIndex:
    """The chunks that may be used, and what was wrong with the indexes.

    Args:
        rebuilt: packs whose chunks were read from their own ends, because no index that counts names them.
        damaged: what of the vault could not be read, one sentence each.
        missing_packs: packs an index names that are not there (or, unless it was asked for otherwise, not whole).
        there: the packs as the store listed them.
    """

    index: ChunkIndex
    rebuilt: tuple[bytes, ...] = ()
    damaged: tuple[str, ...] = ()
    missing_packs: tuple[bytes, ...] = ()
    there: PackPresence | None = None


@dataclass(frozen=True)
class Vault:
    """A repository, opened by somebody.

    Args:
        name: as the topology calls it; in messages.
        store: where it lies.
        secrets: of whoever opened it.
        history: as of opening.
        witnesses: stores at other sites, by site.
        witnessed: what they said when it was opened.
        alarm: what is wrong with the log, or between it and the witnesses, ``None`` when nothing is. Reading goes on
            with what is there; writing is refused.
        protect: told the key of each object that was written, to lock it.
        protect_witness: the same of a witness, with its site first.
        unprotected: entries and witnesses that were written and could not be locked, one sentence each: they count all
            the same, and `renew_locks` locks them.
    """

    name: str
    store: ObjectStore
    secrets: Secrets = field(repr=False)
    history: History = field(repr=False)
    witnesses: Mapping[str, ObjectStore] = field(default_factory=dict, repr=False)
    witnessed: tuple[Witness, ...] = ()
    alarm: HistoryDamaged | None = None
    clock: Clock = field(default_factory=SystemClock, repr=False)
    protect: Callable[[str], None] = field(default=lambda _key: None, repr=False)
    protect_witness: Callable[[str, str], None] = field(default=lambda _site, _key: None, repr=False)
    unprotected: tuple[str, ...] = ()

    def refuse_alarm(self) -> None:
        """Whoever means to write asks first.

        Raises:
            RolledBack, HistoryDamaged: nothing is written to a repository that lost what its witnesses saw.
            NotEntitled: the keys this vault was opened with were replaced.
        """
        if self.alarm is not None:
            raise self.alarm
        check_current(self.secrets, self.history.keys.signers, self.name)

    def at(self, history: History) -> Vault:
        """The same vault as of another history."""
        return replace(self, history=history)

    def reload(self, *, hinted: bool = True) -> Vault:
        """The same vault as of now, its witnesses asked again, and compared with what this knew.

        Args:
            hinted: see `load_history`.
        """
        fresh = replace(
            _opened(self.name, self.store, self.secrets, self.witnesses, self.clock, hinted=hinted),
            protect=self.protect,
            protect_witness=self.protect_witness,
        )
        before, now = self.history.tip, fresh.history.tip
        if fresh.alarm is None and now.sequence <= before.sequence and now.digest != before.digest:
            return replace(fresh, alarm=_went_back(self.store.name, before, now))
        return fresh

    def as_of_now(self, needs: Iterable[int]) -> Vault:
        """The same vault as of now, to read from: packs may have been written anew since this was opened.

        Args:
            needs: entries of backups that are wanted. Where one was forgotten meanwhile, its bytes may still be there
                as this vault knew them.
        """
        try:
            fresh = self.reload()
        except HistoryDamaged:
            return self
        return fresh if fresh.history.backups.keys() >= set(needs) else self

    def again(self, action: Callable[[Vault], _T]) -> _T:
        """Do something that others may outrun, a few times. Raises what the last try raised."""
        vault = self
        for _ in range(_TRIES - 1):
            try:
                return action(vault)
            except Outdated:
                vault = vault.reload()
                vault.refuse_alarm()
        return action(vault)

    def commit(self, entry: LogEntry, protect: Callable[[str], None] = lambda _key: None) -> Vault:
        """After an entry was written: the vault with it, locked and witnessed.

        A site that could not witness it is told of, and so is what could not be locked: the entry stands.

        Args:
            protect: told the entry's keys, beside the vault's own.
        """
        return self.at(self.history.after(entry)).settled(entry, protect)

    def settled(self, entry: LogEntry, protect: Callable[[str], None] = lambda _key: None) -> Vault:
        """The same of a vault whose history has the entry already."""
        unprotected: list[str] = []

        def locked(lock: Callable[[str], None], key: str) -> None:
            try:
                lock(key)
            except ObjectStoreError as error:
                unprotected.append(str(error))

        for key in (layout.entry_key(entry.sequence), layout.entry_copy_key(entry.sequence)):
            locked(self.protect, key)
            locked(protect, key)
        history = self.history
        told = write_witness(self.witnesses, self.secrets, entry, key_entries=history.key_entries, known=self.witnessed)
        for site, error in told.items():
            if error is None:
                repository = self.secrets.repository
                keys = [layout.witness_keys_key(repository, one.sequence, one.digest) for one in history.key_entries]
                for key in (*keys, layout.witness_key(repository, entry.sequence)):
                    locked(partial(self.protect_witness, site), key)
        kept = frozenset((one.sequence, one.digest) for one in history.key_entries)
        witnessed = tuple(
            Witness(site, entry.sequence, entry.digest, key_entries=kept)
            if error is None
            else Witness(site, unknown=error)
            for site, error in told.items()
        )
        return replace(self, witnessed=witnessed, unprotected=(*self.unprotected, *unprotected))

    def current_index(self, *, presence: bool = False, torn: bool = False) -> tuple[Vault, LoadedIndex]:
        """The index, and the vault it is of: as of now where an index is gone, which a collection may have taken away.

        Args:
            presence, torn: see `load_index`.
        """
        loaded = self.load_index(self.packs_there() if presence else None, torn=torn)
        if not loaded.damaged:
            return self, loaded
        fresh = self.reload()
        if fresh.history.tip.digest == self.history.tip.digest:
            return self, loaded
        return fresh, fresh.load_index(fresh.packs_there() if presence else None, torn=torn)

    # -- packs and indexes -------------------------------------------------------------------------------------------

    def packs_there(self) -> PackPresence:
        """All packs as the store lists them."""
        found = list_packs(self.store)
        return PackPresence({pack_id: (tier, info.size_bytes) for pack_id, (tier, info) in found.items()})

    def load_index(self, presence: PackPresence | None = None, *, torn: bool = False) -> LoadedIndex:
        """Read the indexes that count; what they no longer tell is read from the packs themselves.

        Args:
            presence: given, chunks of packs that are not there (or of another size) count as absent.
            torn: those of packs of another size do not: some of them may be whole.
        """
        parts, errors = self.read_indexes()
        damaged = [str(error) for error in errors]
        without = frozenset(self.history.collected)
        rebuilt: tuple[bytes, ...] = ()
        if damaged:
            named = {pack_id for part in parts for pack_id in part.packs["pack_id"].to_pylist()}
            presence = presence or self.packs_there()
            lost = [pack_id for pack_id in presence.sizes if pack_id not in named and pack_id not in without]
            packs, unreadable = self.read_tables(presence, lost)
            parts.append(part_of(packs))
            rebuilt = tuple(pack.info.pack_id for pack in packs)
            damaged.extend(unreadable)
        missing: tuple[bytes, ...] = ()
        if presence is not None:
            missing = tuple(self._not_there(parts, presence, without, torn=torn))
        index = ChunkIndex(parts, without=without | frozenset(missing))
        return LoadedIndex(index, rebuilt, tuple(damaged), missing, presence)

    def read_indexes(self) -> tuple[list[IndexPart], list[Damaged | WrongKey]]:
        """The index objects that count, and what is wrong with those that cannot be read."""
        found = each(self._read_index, self.history.indexes.items(), threads=_READERS)
        return (
            [part for part in found if isinstance(part, IndexPart)],
            [error for error in found if not isinstance(error, IndexPart)],
        )

    def _not_there(
        self, parts: list[IndexPart], presence: PackPresence, without: frozenset[bytes], *, torn: bool
    ) -> Iterator[bytes]:
        for part in parts:
            named = zip(part.packs["pack_id"].to_pylist(), part.packs["size_bytes"].to_pylist(), strict=True)
            for pack_id, size in named:
                there = presence.sizes.get(pack_id)
                whole = there is not None and (torn or there[1] == size)
                if pack_id not in without and not whole:
                    yield pack_id

    def _read_index(self, named: tuple[bytes, str]) -> IndexPart | Damaged | WrongKey:
        index_id, digest = named
        key = layout.index_key(index_id)
        where = f"{self.store.name}: {key}"
        try:
            data = self.store.get(key)
        except ObjectNotFound:
            return Damaged("an index is missing", where=where, expected=digest, found="nothing")
        if index_digest(data) != digest:
            return Damaged("an index was changed", where=where, expected=digest, found=index_digest(data))
        try:
            return decode_index(data, self.secrets.metadata_key, self.secrets.repository, where)
        except (Damaged, WrongKey) as error:
            return error

    def read_tables(self, presence: PackPresence, packs: list[bytes]) -> tuple[list[IndexedPack], list[str]]:
        """The tables at the ends of some packs, and what was wrong with those that have none."""
        found = each(partial(self._read_table, presence), packs, threads=_READERS)
        return (
            [pack for pack in found if isinstance(pack, IndexedPack)],
            [str(error) for error in found if not isinstance(error, IndexedPack)],
        )

    def _read_table(self, presence: PackPresence, pack_id: bytes) -> IndexedPack | Damaged | WrongKey | ObjectNotFound:
        tier, size = presence.sizes[pack_id]
        key = layout.pack_key(tier, pack_id)
        where = f"{self.store.name}: {key}"
        wanted = TAIL_READ_BYTES
        try:
            while True:
                tail = self.store.get(key, byte_range=ByteRange(max(0, size - wanted), size))
                found = read_table(tail, size, self.secrets, pack_id, where)
                if not isinstance(found, int):
                    return IndexedPack(PackInfo(pack_id, found[0], tier, size, None), found[1])
                wanted = found
        except (Damaged, WrongKey, ObjectNotFound) as error:
            return error


def list_packs(store: ObjectStore) -> dict[bytes, tuple[str, ObjectInfo]]:
    """By id the tier and what the store lists of each pack.

    Of two of one name in different tiers it is the older: nobody can know the name before the pack is there.
    """
    found: dict[bytes, tuple[str, ObjectInfo]] = {}
    for info in store.list(layout.PACKS):
        parsed = layout.parse_pack_key(info.key)
        if parsed is not None:
            tier, pack_id = parsed
            if pack_id not in found or info.modified_at < found[pack_id][1].modified_at:
                found[pack_id] = tier, info
    return found


def index_digest(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def init_vault(
    name: str,
    store: ObjectStore,
    secrets: NewSecrets,
    *,
    keysets: Mapping[str, str],
    witnesses: Mapping[str, ObjectStore] | None = None,
    clock: Clock | None = None,
    protect: Callable[[str], None] = lambda _key: None,
    protect_witness: Callable[[str, str], None] = lambda _site, _key: None,
) -> Vault:
    """Make a repository where there is none.

    Args:
        keysets: by role, the id of the key objects that were written before.
        protect, protect_witness: see `Vault`.

    Raises:
        VaultExists: there is one.
    """
    clock = clock or SystemClock()
    reader, admin, writer = secrets.reader, secrets.admin, secrets.writer
    keys = Keys(
        recipients={number: public_of(private) for number, private in reader.private.items()},
        signers={admin.verifier: "admin", writer.verifier: "writer"},
        keysets=dict(keysets),
    )

    entry = append(
        store, admin, "init", clock=clock, tip=None, describe=lambda _tip: ({"keys": keys.to_public()}, None)
    )
    history = History(admin.repository, entry, keys, (entry,), recent=(entry,))
    write_hint(store, history)
    vault = Vault(
        name,
        store,
        admin,
        history,
        dict(witnesses or {}),
        clock=clock,
        protect=protect,
        protect_witness=protect_witness,
    )
    return vault.settled(entry)


def open_vault(
    name: str,
    store: ObjectStore,
    secrets: Secrets,
    *,
    witnesses: Mapping[str, ObjectStore] | None = None,
    clock: Clock | None = None,
    protect: Callable[[str], None] = lambda _key: None,
    protect_witness: Callable[[str, str], None] = lambda _site, _key: None,
) -> Vault:
    """Open a repository and ask its witnesses.

    Where an entry of the log is missing or wrong, or a witness saw more, it opens with an alarm: reading goes on.

    Args:
        protect, protect_witness: see `Vault`; whatever is written through it is locked.

    Raises:
        NoVault, WrongKey: as `load_history`.
        HistoryDamaged: so much of the log is gone that nothing can be read.
    """
    return replace(
        _opened(name, store, secrets, dict(witnesses or {}), clock or SystemClock()),
        protect=protect,
        protect_witness=protect_witness,
    )


def _opened(
    name: str,
    store: ObjectStore,
    secrets: Secrets,
    witnesses: Mapping[str, ObjectStore],
    clock: Clock,
    *,
    hinted: bool = True,
) -> Vault:
    for _ in range(_TRIES):
        history, alarm = _read_log(store, secrets, hinted)
        told = ask_witnesses(history, witnesses)
        if alarm is not None or not any(witness.is_ahead_of(history.tip.sequence) for witness in told):
            break
        # Somebody may have written an entry between the two; one that was witnessed was in the log before.
    if alarm is None:
        try:
            check_witnesses(store, history, told)
        except RolledBack as found:
            alarm = found
    return Vault(name, store, secrets, history, witnesses, told, alarm, clock)


def _read_log(store: ObjectStore, secrets: Secrets, hinted: bool) -> tuple[History, HistoryDamaged | None]:
    """The history, and what is wrong with it. Raises HistoryDamaged: nothing can be read at all."""
    try:
        return load_history(store, secrets, hinted=hinted), None
    except HistoryDamaged as damaged:
        return load_history(store, secrets, hinted=False, damage=[]), damaged


def _went_back(name: str, before: LogEntry, now: LogEntry) -> RolledBack:
    return RolledBack(
        "the repository lies behind what this process itself has read",
        where=name,
        expected=f"entry {before.sequence}, {before.digest}",
        found=f"entry {now.sequence}, {now.digest}, as the newest",
        fix="Somebody removed entries or put an older state back; nothing was written. "
        "Put them back from a mirror with `holdfast vault verify --repair`",
    )
