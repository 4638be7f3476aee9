"""Vaults that meet harm: stores whose clock is told, sources and targets in memory, and what must hold afterwards.

A backup carries the name of the state it is of as a label: whatever is live can be compared with what it must be.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from blake3 import blake3

from holdfast.clock import Clock, FakeClock, SystemClock
from holdfast.engine.objectstore import ObjectStore, RetryingStore, local_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, ObjectStoreError, PreconditionFailed
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    Create,
    ObjectInfo,
    ObjectReader,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.objectstore.retry import RetryPolicy
from holdfast.engine.vault import layout
from holdfast.engine.vault.backup import BackupOptions, BackupReport, back_up
from holdfast.engine.vault.backups import Backup, find_backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, CollectReport, collect
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.recipients import Recipient, SecretRecipient
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, restore_backup
from holdfast.engine.vault.secrets import ROLES
from holdfast.engine.vault.sources import SourceObject
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault, open_vault
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from sync_harms import WRITES, Harm, HarmedStore, Killed, Op, Trace

Files = Mapping[str, bytes]

#: Packs of a few chunks, so that tiny files fill several.
PACK_BYTES = 6 * 1024
OPTIONS = BackupOptions(chunk_bytes=16 * 1024, pack_bytes=PACK_BYTES)
#: Tries until it works, on a clock that costs nothing.
PATIENT = RetryPolicy(attempts=40, budget_seconds=1e9, first_delay_seconds=0.001, longest_delay_seconds=0.002)
AT_ONCE = CollectOptions(grace=timedelta(0), orphan_age=timedelta(0), pack_bytes=PACK_BYTES)
RECIPIENT = SecretRecipient("tests", bytes(range(32)))


class ClockedStore:
    """A store in a dictionary whose objects are as old as a clock says; a copy of it is cheap."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = f"{name} (clocked)"
        self._clock = clock
        self._short_name = name
        self._lock = Lock()
        self._found: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._count = 0

    def capabilities(self) -> Capabilities:
        return Capabilities(backend="clocked", create_only=True, ranged_reads=True, create_only_streamed=False)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        with self._lock:
            keys = sorted(key for key in self._found if key.startswith(prefix) and key > (start_after or ""))
            return iter([self._found[key][1] for key in keys])

    def head(self, key: str) -> ObjectInfo:
        return self._at(key)[1]

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        data, info = self._at(key)
        if if_match is not None and if_match != info.version:
            raise PreconditionFailed("another version", where=f"{self.name}: {key}")
        return data if byte_range is None else data[byte_range.start : byte_range.end]

    def open(self, key: str, *, byte_range: ByteRange | None = None, **_: Any) -> ObjectReader:
        return ObjectReader(self.head(key), iter([self.get(key, byte_range=byte_range)]), is_whole=True)

    def put(self, key: str, data: bytes | Iterable[bytes], *, mode: PutMode = OVERWRITE, **_: Any) -> ObjectVersion:
        data = data if isinstance(data, bytes) else b"".join(data)
        with self._lock:
            if isinstance(mode, Create) and key in self._found:
                raise ObjectExists("an object of this key is there", where=f"{self.name}: {key}")
            self._count += 1
            version = ObjectVersion(str(self._count))
            self._found[key] = data, ObjectInfo(key, len(data), self._clock.now(), version)
        return version

    def copy(self, source: str, target: str) -> None:
        self.put(target, self.get(source))

    def delete(self, key: str) -> None:
        with self._lock:
            self._found.pop(key, None)

    def _at(self, key: str) -> tuple[bytes, ObjectInfo]:
        with self._lock:
            found = self._found.get(key)
        if found is None:
            raise ObjectNotFound("no object has this key", where=f"{self.name}: {key}")
        return found

    def fork(self, clock: Clock) -> ClockedStore:
        """Another store with the same objects."""
        made = ClockedStore(self._short_name, clock)
        with self._lock:
            made._found, made._count = dict(self._found), self._count
        return made

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        with self._lock:
            return {key: data for key, (data, _) in sorted(self._found.items()) if key.startswith(prefix)}

    def set_to(self, objects: Mapping[str, bytes]) -> None:
        """Roll it back: these objects, and no others."""
        for key in self.objects().keys() - objects.keys():
            self.delete(key)
        for key, data in objects.items():
            self.put(key, data)


def folder_sites(folder: Path) -> Sites:
    """In folders of this machine, by the real clock."""
    names = ("vault", "mirror", "witness-a", "witness-b")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    stores = {name: local_store(name, folder / name) for name in names}
    vault, mirror = stores.pop("vault"), stores.pop("mirror")
    return Sites(SystemClock(), vault, mirror, dict(stores))


class FullStore(StoreDecorator):
    """A store that takes so many bytes more, then refuses every write as a full disk does."""

    def __init__(self, inner: ObjectStore, room_bytes: int) -> None:
        super().__init__(inner)
        self.room_bytes = room_bytes

    def put(self, key: str, data: Any, **kwargs: Any) -> ObjectVersion:
        self.room_bytes -= len(data)
        if self.room_bytes < 0:
            raise ObjectStoreError(
                "the store refused", where=f"{self.name}: put {key}", found="No space left on device (os error 28)"
            )
        return self.inner.put(key, data, **kwargs)


@dataclass
class KillAtWrite(Harm):
    """The process dies before or after its n-th write, and stays dead."""

    nth: int
    after_it: bool
    _writes: dict[int, int] = field(default_factory=dict)
    dead: bool = False

    def before(self, op: Op) -> None:
        if self.dead:
            raise Killed(f"dead before {op}")
        if op.verb in WRITES:
            self._writes[op.index] = len(self._writes)
            if self._writes[op.index] == self.nth and not self.after_it:
                self._die(op)

    def after(self, op: Op) -> None:
        if self.dead:
            raise Killed(f"dead during {op}")
        if self._writes.get(op.index) == self.nth:
            self._die(op)

    def _die(self, op: Op) -> None:
        self.dead = True
        raise Killed(f"at {op}")


def writes_of(trace: Trace) -> int:
    return sum(1 for op in trace.ops if op.verb in WRITES)


@dataclass(frozen=True)
class DictSource:
    """Files in memory; an object's state is its content's digest."""

    name: str
    files: Files
    taken_at: datetime
    kind: str = "tree"
    is_remote: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)

    def objects(self) -> Iterator[SourceObject]:
        for path, data in sorted(self.files.items()):
            yield SourceObject(path, len(data), self.taken_at, blake3(data).hexdigest(), None, None)

    def read(self, item: SourceObject) -> Iterator[bytes]:
        yield self.files[item.path]

    def finish(self) -> None:
        return None


@dataclass
class DictTarget:
    """Files in memory; ``writes`` counts what was written to it."""

    files: dict[str, bytes] = field(default_factory=dict)
    folds_case: bool = False
    writes: int = 0

    def has(self, row: TreeRow) -> bool:
        data = self.files.get(row.path)
        return data is not None and f"blake3:{blake3(data).hexdigest()}" == row.digest

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        self.files[row.path] = b"".join(pieces)
        self.writes += 1

    def finish(self) -> None:
        return None


@dataclass
class Sites:
    """A vault, its mirror and two witnesses, with what each state that was ever backed up looks like.

    Args:
        vault, mirror, witnesses: by default `ClockedStore`, which alone can be forked and settled.
    """

    clock: Any = field(default_factory=FakeClock)
    vault: Any = None
    mirror: Any = None
    witnesses: dict[str, Any] = field(default_factory=dict)
    states: dict[str, Files] = field(default_factory=dict)
    recipients: list[Recipient] = field(default_factory=lambda: [RECIPIENT])
    trace: Trace | None = None
    retries: bool = False

    def __post_init__(self) -> None:
        self.vault = self.vault or ClockedStore("vault", self.clock)
        self.mirror = self.mirror or ClockedStore("mirror", self.clock)
        if not self.witnesses:
            self.witnesses = {name: ClockedStore(name, self.clock) for name in ("witness-a", "witness-b")}

    def make(self) -> Sites:
        make_vault(
            "vault",
            self.store(),
            dict.fromkeys(ROLES, self.recipients),
            witnesses=self.seen_witnesses(),
            clock=self.clock,
        )
        return self

    def fork(self) -> Sites:
        """Another world as of now."""
        clock = FakeClock(self.clock.now())
        return Sites(
            clock,
            self.vault.fork(clock),
            self.mirror.fork(clock),
            {name: store.fork(clock) for name, store in self.witnesses.items()},
            dict(self.states),
            list(self.recipients),
        )

    # -- through the harm, where there is one ------------------------------------------------------------------------

    def harmed(self, name: str, store: ObjectStore) -> ObjectStore:
        if self.trace is None:
            return store
        harmed = HarmedStore(store, name, self.trace)
        return RetryingStore(harmed, PATIENT, clock=self.clock, rng=random.Random(1)) if self.retries else harmed

    def store(self) -> ObjectStore:
        return self.harmed("vault", self.vault)

    def mirror_store(self) -> ObjectStore:
        return self.harmed("mirror", self.mirror)

    def seen_witnesses(self) -> dict[str, ObjectStore]:
        return {name: self.harmed(name, store) for name, store in self.witnesses.items()}

    # -- what people do ----------------------------------------------------------------------------------------------

    def open(self, role: str = "reader", *, store: ObjectStore | None = None, clock: Clock | None = None) -> Vault:
        store = store or self.store()
        secrets = unlock(store, role, self.recipients)
        return open_vault("vault", store, secrets, witnesses=self.seen_witnesses(), clock=clock or self.clock)

    def back_up(
        self,
        files: Files,
        *,
        source: str = "files",
        vault: Vault | None = None,
        options: BackupOptions = OPTIONS,
        taken_at: datetime | None = None,
        state: str | None = None,
    ) -> BackupReport:
        state = state or f"state-{len(self.states)}"
        self.states[state] = dict(files)
        return back_up(
            vault or self.open("writer"),
            DictSource(source, files, taken_at or self.clock.now()),
            replace(options, labels={"state": state}),
        )

    def collect(self, options: CollectOptions = AT_ONCE, *, repack: bool = True) -> CollectReport:
        vault = self.open("admin")
        reader = unlock(self.store(), "reader", self.recipients) if repack else None
        return collect(vault, replace(options, reader=reader))[1]

    def restore(
        self, wanted: str | None = None, *, store: ObjectStore | None = None, options: RestoreOptions | None = None
    ) -> tuple[dict[str, bytes], RestoreReport]:
        vault = self.open(store=store)
        target = DictTarget()
        return target.files, restore_backup(vault, find_backup(vault, wanted), target, options)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def live(self, *, store: ObjectStore | None = None) -> list[Backup]:
        return live_backups(self.open(store=store))

    def expected(self, backup: Backup) -> Files:
        return self.states[backup.labels["state"]]

    def check_live(self, *, at_least: Iterable[str] = (), store: ObjectStore | None = None) -> list[Backup]:
        """No alarm, and every live backup restores byte for byte. Returns them.

        Args:
            at_least: ids that must be among them.
        """
        vault = self.open(store=store)
        assert vault.alarm is None, str(vault.alarm)
        backups = live_backups(vault)
        assert set(at_least) <= {backup.backup_id for backup in backups}
        for backup in backups:
            target = DictTarget()
            restore_backup(vault, backup, target)
            assert target.files == self.expected(backup), backup
        return backups

    def check_verifies(self, *, store: ObjectStore | None = None) -> None:
        report = verify_vault(self.open(store=store), VerifyOptions(depth=Depth.FULL))
        assert report.problems == [], report.problems
        assert report.missing_packs == [], report.missing_packs

    def settle(self) -> None:
        """Everything that is nobody's goes; what is left is exactly what is needed."""
        for _ in range(4):
            self.clock.advance(1)
            self.collect()
        self.check_nothing_leaked()

    def check_nothing_leaked(self) -> None:
        vault = self.open(store=self.vault)
        loaded = vault.load_index(vault.packs_there())
        assert loaded.damaged == ()
        assert loaded.missing_packs == ()
        reader = ChunkReader(vault, loaded.index)
        needed: set[str] = set()
        for backup in live_backups(vault):
            for part in backup.segments:
                names = [part.chunk_id, *reader.segment(part.chunk_id)["chunks"].combine_chunks().flatten().to_pylist()]
                for name in names:
                    info = loaded.index.packs[reader.locate(name).pack]
                    needed.add(layout.pack_key(info.tier, info.pack_id))
        history = vault.history
        assert set(self.vault.objects(layout.PACKS)) == needed
        assert set(self.vault.objects(layout.INDEXES)) == {layout.index_key(name) for name in history.indexes}
        assert set(self.vault.objects(layout.LOG)) == {layout.entry_key(number) for number in history.counting}
        assert set(self.vault.objects(layout.LOG_COPIES)) == {
            layout.entry_copy_key(number) for number in history.counting
        }
        assert self.vault.objects(layout.CLOCK) == {}
        assert self.vault.objects(layout.RUNNING) == {}


def some_files(seed: int = 0, *, count: int = 12, size: int = 700) -> dict[str, bytes]:
    """Small files that do not compress, some larger than a chunk."""
    files = {
        f"part-{number % 3}/{number:02}": blake3(f"{seed}-{number}".encode()).digest(size + 37 * number)
        for number in range(count)
    }
    return {**files, "empty": b"", "large": blake3(f"{seed}-large".encode()).digest(20_000)}
