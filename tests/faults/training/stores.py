"""The sites' stores as a training process has them: every write is a boundary at which something may happen."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.training.scenario import Death, Trouble, Zombie
from holdfast.engine.authority.interface import EpochConflict, EpochState, EpochStore
from holdfast.engine.authority.register import RankedRegister
from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore import ObjectStore, RetryingStore, RetryPolicy, StoreAccess, local_store, open_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.access import fixed
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import ObjectExists
from holdfast.engine.objectstore.faults import Chance, FaultyStore, Kind
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, ObjectVersion, PutMode

RUN, GROUP = "group-job.one", "group"
SITES = ("left", "right")
HURRIED = RetryPolicy(attempts=3, budget_seconds=5.0, first_delay_seconds=0.002, longest_delay_seconds=0.01)


@dataclass(frozen=True)
class Place:
    """Where a run's sites are: folders below ``folder``, or prefixes ``prefix`` of buckets at ``endpoint``."""

    folder: Path
    endpoint: str | None = None
    prefix: str = ""

    def store(self, site: str) -> ObjectStore:
        """A site's bare store. Opened where it is used: a store does not outlive a fork."""
        if self.endpoint is None:
            return local_store(site, self.folder / site)
        settings = Site(
            cloud=Cloud.AWS, region="eu-west-1", jurisdiction="EU", connection="s3", bucket=site, prefix=self.prefix
        )
        credentials = fixed(access_key_id="key", secret_access_key="secret")
        return open_store(site, settings, StoreAccess(self.endpoint, credentials=credentials), retry=None)

    def register(self, holder: str) -> EpochStore:
        """Who is active: the ranked register over three buckets, or a chain of records in a third folder."""
        if self.endpoint is None:
            return FolderEpochs(local_store("witness", self.folder / "witness"), holder)
        return RankedRegister({site: self.store(site) for site in (*SITES, "witness")}, holder=holder)


class FolderEpochs:
    """An `EpochStore` on create-only puts alone: one record per epoch, and whoever writes it first has it."""

    def __init__(self, store: ObjectStore, holder: str) -> None:
        self._store = store
        self._holder = holder

    def read(self, group: str) -> EpochState | None:
        keys = [info.key for info in self._store.list(f"authority/{group}/")]
        return _state(self._store.get(max(keys))) if keys else None

    def advance(self, group: str, *, expected_epoch: int, active_site: str, plan_id: str, reason: str) -> EpochState:
        from datetime import UTC, datetime

        before = self.read(group)
        state = {
            "group": group,
            "epoch": expected_epoch + 1,
            "active_site": active_site,
            "previous_site": before.active_site if before else None,
            "plan_id": plan_id,
            "holder": self._holder,
            "reason": reason,
            "committed_at": datetime.now(UTC).isoformat(),
            "write_id": f"{plan_id}-{os.getpid()}",
        }
        if (before.epoch if before else 0) != expected_epoch:
            raise EpochConflict("the group is in another epoch", current=before)
        try:
            key = f"authority/{group}/{expected_epoch + 1:06d}.json"
            self._store.put(key, json.dumps(state).encode(), mode=CREATE)
        except ObjectExists:
            raise EpochConflict("the group is in another epoch", current=self.read(group)) from None
        return _state(json.dumps(state).encode())

    def claim(self, group: str, operation: Any) -> EpochState:
        raise NotImplementedError

    def release(self, group: str, plan_id: str) -> EpochState:
        raise NotImplementedError

    def inspect(self, group: str) -> list[Any]:
        raise NotImplementedError


def _state(data: bytes) -> EpochState:
    from datetime import datetime

    told = json.loads(data)
    return EpochState(**{**told, "committed_at": datetime.fromisoformat(told["committed_at"])})


class Log:
    """What a process did, line by line in a file: a process that is killed has said what it did until then."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        #: Held while the size of files is limited, which the log is not to feel.
        self.lock = threading.Lock()

    def say(self, what: str, **facts: Any) -> None:
        with self.lock:
            self.say_locked(what, **facts)

    def say_locked(self, what: str, **facts: Any) -> None:
        os.write(self._file, json.dumps({"what": what, **facts}).encode() + b"\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """What was said; a line the process died in is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def part_of(key: str) -> str:
    """What a key holds, by its place in the bucket."""
    if key.startswith("receipts/"):
        return "receipt"
    if key.startswith("jobs/"):
        return "heartbeat"
    folder = key.removeprefix(f"runs/{RUN}/").partition("/")[0]
    return {"blobs": "blob", "checkpoints": "manifest", "epochs": "fork"}.get(folder, folder)


class Fate:
    """What is to happen to this process, and at which of its writes."""

    def __init__(self, log: Log, death: Death | None, zombie: Zombie | None, trouble: Trouble) -> None:
        self.log = log
        self._death, self._zombie, self._trouble = death, zombie, trouble
        self._lock = threading.Lock()
        self._writes = 0
        self._stop_at: int | None = None
        self._suspended = False
        #: Set once a suspended process went on.
        self.awake = False

    @property
    def writes(self) -> int:
        """How many there were."""
        with self._lock:
            return self._writes

    def before(self, boundary: str, size_bytes: int) -> tuple[int, int | None]:
        """Returns the write's number, and how many bytes of it the disk takes; None: all."""
        with self._lock:
            self._writes += 1
            nth = self._writes
        death = self._death
        if death is not None and death.how == "put" and nth == death.nth and not death.after:
            self.kill("put", f"before {boundary}")
        if self._stop_at is not None and nth >= self._stop_at:
            self.suspend(f"before {boundary}")
        if death is not None and death.how == "byte" and nth >= death.nth and size_bytes:
            return nth, min(death.size_bytes, size_bytes - 1)
        full = self._trouble.full
        if full is not None and full[0] <= nth < full[0] + full[1] and size_bytes:
            return nth, size_bytes // 2
        return nth, None

    def after(self, nth: int, boundary: str) -> None:
        death = self._death
        if death is not None and death.how == "put" and nth == death.nth and death.after:
            self.kill("put", f"after {boundary}")

    def at_step(self, done: int, *, saved: bool) -> None:
        """``done`` steps of this process, before or after the save of the last one."""
        death, zombie = self._death, self._zombie
        if death is not None and death.step == done and death.after == saved:
            if death.how == "step":
                self.kill("step", f"{'after' if saved else 'before'} a save")
            if death.how == "instant":
                self.wait_for_death()
        if death is not None and death.how == "asked" and death.step == done and not saved:
            self.log.say("asked")
            os.kill(os.getpid(), signal.SIGTERM)
        if zombie is not None and zombie.step == done and not saved:
            with self._lock:
                self._stop_at = self._writes + zombie.nth

    def after_last_step(self) -> None:
        """What was to happen in a step and has not happens now, and a zombie ends no run."""
        death = self._death
        if death is not None and death.how == "instant":
            self.wait_for_death()
        if death is not None and death.how == "step":
            self.kill("step", "after the last step")
        if self._zombie is not None:
            self.suspend("after the last step")

    def at_end(self) -> None:
        """What was to happen at a write that never came happens now."""
        if self._death is not None and self._death.how in ("put", "byte"):
            self.kill("step", "at the end")

    def wait_for_death(self) -> None:
        self.log.say("waits")
        while True:
            signal.pause()

    def kill(self, how: str, where: str) -> None:
        self.log.say("killed", how=how, where=where)
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # not one instruction more in this thread

    def suspend(self, where: str) -> None:
        """Stop, all threads of it, until somebody lets it go on. Once in a life."""
        with self._lock:
            if self._suspended:
                return
            self._suspended = True
        self.log.say("suspended", where=where)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.awake = True
        self.log.say("awake")


class BoundaryStore(StoreDecorator):
    """A site's store whose writes are counted and harmed as the process's `Fate` says."""

    def __init__(self, inner: ObjectStore, role: str, fate: Fate) -> None:
        super().__init__(inner)
        self._role, self._fate = role, fate

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        part = part_of(key)
        boundary = f"{part} at {self._role}"
        whole = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        nth, room = self._fate.before(boundary, len(whole))
        options = {"mode": mode, "content_type": content_type, "metadata": metadata, "attributes": attributes}
        if room is None:
            version = self.inner.put(key, whole, **options)  # type: ignore[arg-type]
        else:
            version = self._into_little_room(key, whole, room, boundary, options)
        self._fate.after(nth, boundary)
        if self._fate.awake and part in ("blob", "manifest", "receipt"):
            self._fate.log.say("stale write", where=boundary, key=key)
        return version

    def _into_little_room(self, key: str, data: bytes, room: int, boundary: str, options: Any) -> ObjectVersion:
        """The kernel lets no file of this process grow beyond ``room`` bytes: the write ends in its middle."""
        log = self._fate.log
        with log.lock:
            log.say_locked("little room", where=boundary, room=room, of=len(data))
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                return self.inner.put(key, data, **options)
            except Exception as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                log.say_locked("disk full", where=boundary, error=str(error)[-60:])
                raise
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class CountedChance(Chance):
    """Faults at random that are told in the log."""

    def __init__(self, rng: random.Random, rates: Mapping[Kind, float], log: Log) -> None:
        super().__init__(rng, rates)
        self._log = log

    def next(self, verb: str, key: str) -> Any:
        fault = super().next(verb, key)
        if fault is not None:
            self._log.say(str(fault.kind), where=f"{verb} {part_of(key)}")
        return fault


def harmed(place: Place, site: str, role: str, fate: Fate, trouble: Trouble, rng: random.Random) -> ObjectStore:
    """A site's store for a training process: retries over boundaries over faults, as the real one is stacked."""
    store = place.store(site)
    if role == "standby" and trouble.standby_down:
        return BoundaryStore(FaultyStore(store, CountedChance(rng, {Kind.FAIL_BEFORE: 1.0}, fate.log)), role, fate)
    rates = {Kind.FAIL_BEFORE: trouble.unavailable, Kind.FAIL_AFTER: trouble.lost}
    if any(rates.values()):
        store = FaultyStore(store, CountedChance(rng, rates, fate.log))
    return RetryingStore(BoundaryStore(store, role, fate), HURRIED, rng=random.Random(1))
