"""An opened vault: its store, its secrets, its history, what its witnesses say, and where its chunks lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from blake3 import blake3

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, Outdated, RolledBack, VaultExists, WrongKey
from holdfast.engine.vault.history import History, Keys, load_history, write_hint
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, IndexPart, decode_index, part_of
from holdfast.engine.vault.log import LogEntry, append, sequences
from holdfast.engine.vault.pack import TAIL_READ_BYTES, PackInfo, read_table
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.secrets import NewSecrets, Secrets, public_of, verifier_of
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
    """

    name: str
    store: ObjectStore
    secrets: Secrets = field(repr=False)
    history: History = field(repr=False)
    witnesses: Mapping[str, ObjectStore] = field(default_factory=dict, repr=False)
    witnessed: tuple[Witness, ...] = ()
    alarm: HistoryDamaged | None = None
    clock: Clock = field(default_factory=SystemClock, repr=False)

    def refuse_alarm(self) -> None:
        """Raises RolledBack, HistoryDamaged: nothing is written to a repository that lost what its witnesses saw."""
        if self.alarm is not None:
            raise self.alarm

    def at(self, history: History) -> Vault:
        """The same vault as of another history."""
        return replace(self, history=history)

    def reload(self, *, hinted: bool = True) -> Vault:
        """The same vault as of now, its witnesses asked again, and compared with what this knew.

        Args:
            hinted: see `load_history`.
        """
        fresh = _opened(self.name, self.store, self.secrets, self.witnesses, self.clock, hinted=hinted)
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

    def commit(self, entry: LogEntry) -> Vault:
        """After an entry was written: the vault with it, witnessed. A site that could not witness it is told of."""
        told = write_witness(self.witnesses, self.secrets, entry)
        witnessed = tuple(
            Witness(site, entry.sequence, entry.digest) if error is None else Witness(site, unknown=error)
            for site, error in told.items()
        )
        return replace(self, history=self.history.after(entry), witnessed=witnessed)

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
        found: dict[bytes, tuple[str, int]] = {}
        for info in self.store.list(layout.PACKS):
            parsed = layout.parse_pack_key(info.key)
            if parsed is not None:
                found[parsed[1]] = parsed[0], info.size_bytes
        return PackPresence(found)

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


def index_digest(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def refuse_existing(store: ObjectStore) -> None:
    """Raises VaultExists: a log is there, of whatever state."""
    if sequences(store):
        raise _exists(store)


def _exists(store: ObjectStore) -> VaultExists:
    return VaultExists(
        "there is a vault here already",
        where=store.name,
        expected="nothing below log/",
        found="a log",
        fix="Use it, or name another site or prefix",
    )


def init_vault(
    name: str,
    store: ObjectStore,
    secrets: NewSecrets,
    *,
    keysets: Mapping[str, str],
    witnesses: Mapping[str, ObjectStore] | None = None,
    clock: Clock | None = None,
) -> Vault:
    """Make a repository where there is none.

    Args:
        keysets: by role, the id of the key objects that were written before.

    Raises:
        VaultExists: there is one.
    """
    clock = clock or SystemClock()
    refuse_existing(store)
    reader, admin, writer = secrets.reader, secrets.admin, secrets.writer
    assert admin.signing is not None
    assert writer.signing is not None
    keys = Keys(
        recipients={number: public_of(private) for number, private in reader.private.items()},
        signers={verifier_of(admin.signing): "admin", verifier_of(writer.signing): "writer"},
        keysets=dict(keysets),
    )

    def describe(_tip: LogEntry | None) -> tuple[dict[str, object], dict[str, object]]:
        return {"keys": keys.to_public()}, {"keys": keys.to_public()}

    def taken(_entry: LogEntry) -> None:
        raise _exists(store)

    entry = append(store, admin, "init", clock=clock, tip=None, describe=describe, seen=taken)
    history = History(admin.repository, entry, keys, entry)
    write_hint(store, history)
    vault = Vault(name, store, admin, history, dict(witnesses or {}), clock=clock)
    write_witness(vault.witnesses, admin, entry)
    return vault


def open_vault(
    name: str,
    store: ObjectStore,
    secrets: Secrets,
    *,
    witnesses: Mapping[str, ObjectStore] | None = None,
    clock: Clock | None = None,
) -> Vault:
    """Open a repository and ask its witnesses.

    Where an entry of the log is missing or wrong, or a witness saw more, it opens with an alarm: reading goes on.

    Raises:
        NoVault, WrongKey: as `load_history`.
        HistoryDamaged: so much of the log is gone that nothing can be read.
    """
    return _opened(name, store, secrets, dict(witnesses or {}), clock or SystemClock())


def _opened(
    name: str,
    store: ObjectStore,
    secrets: Secrets,
    witnesses: Mapping[str, ObjectStore],
    clock: Clock,
    *,
    hinted: bool = True,
) -> Vault:
    history, alarm = _read_log(store, secrets, hinted)
    told = ask_witnesses(history, witnesses)
    if alarm is None and any((witness.sequence or 0) > history.tip.sequence for witness in told):
        # Somebody may have written an entry between the two; one that was witnessed was in the log before.
        history, alarm = _read_log(store, secrets, hinted)
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
