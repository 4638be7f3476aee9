"""An opened vault: its store, its secrets, its history, what its witnesses say, and where its chunks lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from blake3 import blake3

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import Damaged, RolledBack, VaultExists, WrongKey
from holdfast.engine.vault.history import History, Keys, load_history, write_hint
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, IndexPart, decode_index, part_of
from holdfast.engine.vault.log import LogEntry, append
from holdfast.engine.vault.pack import TAIL_READ_BYTES, PackInfo, read_table
from holdfast.engine.vault.secrets import NewSecrets, Secrets, public_of, verifier_of
from holdfast.engine.vault.witness import Witness, check_witnesses, write_witness

_READERS = 8


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
        unnamed: packs no index that counts names: of a running or broken-off backup.
    """

    index: ChunkIndex
    rebuilt: tuple[bytes, ...] = ()
    damaged: tuple[str, ...] = ()
    missing_packs: tuple[bytes, ...] = ()


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
        alarm: what is wrong between the two, ``None`` when nothing is. Reading goes on; writing is refused.
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
    alarm: RolledBack | None = None
    clock: Clock = field(default_factory=SystemClock, repr=False)
    protect: Callable[[str], None] = field(default=lambda _key: None, repr=False)
    protect_witness: Callable[[str, str], None] = field(default=lambda _site, _key: None, repr=False)
    unprotected: tuple[str, ...] = ()

    def refuse_alarm(self) -> None:
        """Raises RolledBack: nothing is written to a repository that lost what its witnesses saw."""
        if self.alarm is not None:
            raise self.alarm

    def at(self, history: History) -> Vault:
        """The same vault as of another history."""
        return replace(self, history=history)

    def reload(self) -> Vault:
        """The same vault as of now."""
        return self.at(load_history(self.store, self.secrets))

    def commit(self, entry: LogEntry, protect: Callable[[str], None] = lambda _key: None) -> Vault:
        """After an entry was written: the vault with it, locked and witnessed.

        A site that could not witness it is told of, and so is what could not be locked: the entry stands.

        Args:
            protect: told the entry's keys, beside the vault's own.
        """
        return replace(self.settled(entry, protect), history=self.history.after(entry))

    def settled(self, entry: LogEntry, protect: Callable[[str], None] = lambda _key: None) -> Vault:
        """The same as of the history it has already."""
        unprotected: list[str] = []

        def locked(lock: Callable[[str], None], key: str) -> None:
            try:
                lock(key)
            except ObjectStoreError as error:
                unprotected.append(str(error))

        for key in (layout.entry_key(entry.sequence), layout.entry_copy_key(entry.sequence)):
            locked(self.protect, key)
            locked(protect, key)
        told = write_witness(self.witnesses, self.secrets, entry)
        for site, error in told.items():
            if error is None:
                key = layout.witness_key(self.secrets.repository, entry.sequence)
                locked(partial(self.protect_witness, site), key)
        witnessed = tuple(
            Witness(site, entry.sequence, entry.digest) if error is None else Witness(site, unknown=error)
            for site, error in told.items()
        )
        return replace(self, witnessed=witnessed, unprotected=(*self.unprotected, *unprotected))

    # -- packs and indexes -------------------------------------------------------------------------------------------

    def packs_there(self) -> PackPresence:
        """All packs as the store lists them."""
        found: dict[bytes, tuple[str, int]] = {}
        for info in self.store.list(layout.PACKS):
            parsed = layout.parse_pack_key(info.key)
            if parsed is not None:
                found[parsed[1]] = parsed[0], info.size_bytes
        return PackPresence(found)

    def load_index(self, presence: PackPresence | None = None) -> LoadedIndex:
        """Read the indexes that count; what they no longer tell is read from the packs themselves.

        Args:
            presence: given, chunks of packs that are not there (or of another size) count as absent.
        """
        parts: list[IndexPart] = []
        damaged: list[str] = []
        with ThreadPoolExecutor(_READERS) as pool:
            for found in pool.map(self._read_index, self.history.indexes.items()):
                if isinstance(found, IndexPart):
                    parts.append(found)
                else:
                    damaged.append(str(found))
        without = frozenset(self.history.collected)
        rebuilt: tuple[bytes, ...] = ()
        if damaged:
            named = {pack_id for part in parts for pack_id in part.packs["pack_id"].to_pylist()}
            presence = presence or self.packs_there()
            lost = [pack_id for pack_id in presence.sizes if pack_id not in named and pack_id not in without]
            packs, errors = self.read_tables(presence, lost)
            parts.append(part_of(packs))
            rebuilt = tuple(pack.info.pack_id for pack in packs)
            damaged.extend(errors)
        missing: tuple[bytes, ...] = ()
        if presence is not None:
            missing = tuple(self._not_there(parts, presence, without))
        index = ChunkIndex(parts, without=without | frozenset(missing))
        return LoadedIndex(index, rebuilt, tuple(damaged), missing)

    def _not_there(self, parts: list[IndexPart], presence: PackPresence, without: frozenset[bytes]) -> Iterator[bytes]:
        for part in parts:
            named = zip(part.packs["pack_id"].to_pylist(), part.packs["size_bytes"].to_pylist(), strict=True)
            for pack_id, size in named:
                if pack_id not in without and presence.sizes.get(pack_id, ("", -1))[1] != size:
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
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(partial(self._read_table, presence), packs))
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
    assert admin.signing is not None
    assert writer.signing is not None
    keys = Keys(
        recipients={number: public_of(private) for number, private in reader.private.items()},
        signers={verifier_of(admin.signing): "admin", verifier_of(writer.signing): "writer"},
        keysets=dict(keysets),
    )

    def describe(_tip: LogEntry | None) -> tuple[dict[str, object], dict[str, object]]:
        return {"keys": keys.to_public()}, {"keys": keys.to_public()}

    def taken(entry: LogEntry) -> None:
        raise VaultExists(
            "there is a vault here already",
            where=store.name,
            found=f"made at {entry.created_at.isoformat()}",
            fix="Use it, or name another site or prefix",
        )

    entry = append(store, admin, "init", clock=clock, tip=None, describe=describe, seen=taken)
    history = History(admin.repository, entry, keys, entry)
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

    Args:
        protect, protect_witness: see `Vault`; whatever is written through it is locked.

    Raises:
        NoVault, HistoryDamaged, WrongKey: as `load_history`.
    """
    history = load_history(store, secrets)
    alarm: RolledBack | None = None
    told: tuple[Witness, ...] = ()
    try:
        told = check_witnesses(store, history, witnesses or {})
    except RolledBack as found:
        alarm = found
    return Vault(
        name,
        store,
        secrets,
        history,
        dict(witnesses or {}),
        told,
        alarm,
        clock or SystemClock(),
        protect,
        protect_witness,
    )
