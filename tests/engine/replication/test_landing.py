"""What lies under ``.versions/`` at a target stays as it is while a snapshot may name it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.replication import rounds, streams
from holdfast.engine.replication.copying import Item, SmallCopier
from holdfast.engine.replication.landing import Landed, Need
from holdfast.engine.snapshot import records
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import HoldfastError
from sync_harms import Harm, HarmedStore, Killed, Trace, bent
from sync_world import DATASET, World, see

STATES = (b"zero" * 900, b"one!" * 900, b"two!" * 900)


def test_a_published_object_is_not_written_again_when_its_bytes_come_back():
    class BentWritesUntilKilled(Harm):
        def wrote(self, op, data):
            return bent(data, 2) if "/.versions/" in op.key else data

        def after(self, op):
            if op.verb == "put" and "/.versions/" in op.key:
                raise Killed

    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    for state in STATES:
        world.source.put("a", state)
        world.sync()
    before = [info for info in world.stores["gcp"].list("data/") if "/.versions/" in info.key]
    world.source.put("a", STATES[1])
    trace = Trace([BentWritesUntilKilled()])
    with suppress(Killed):  # what is written would be bent, and the process gone before it looks
        world.sync(wrap=lambda name, store: HarmedStore(store, name, trace) if name == "gcp" else store)
    world.sync()
    shown = [see(world.stores["gcp"], record)["a"] for record in records(world.stores["gcp"], DATASET)]
    assert sorted(shown) == sorted([*STATES, STATES[1]])
    after = {info.key: info.version for info in world.stores["gcp"].list("data/")}
    assert [after[info.key] for info in before] == [info.version for info in before]


def test_wrong_bytes_under_a_name_made_of_the_digest_are_mended():
    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    for state in STATES[:2]:
        world.source.put("a", state)
        world.sync()
    [spare] = [info.key for info in world.stores["gcp"].list("data/") if "/.versions/" in info.key]
    world.source.put("a", STATES[2])
    world.sync()
    world.stores["gcp"].put(spare, STATES[2])
    world.source.put("a", STATES[1])
    assert world.sync().targets[0].ok
    assert world.shows("gcp") == {"a": STATES[1]}


def test_parts_leave_what_lies_under_a_name_made_of_the_sources_version(monkeypatch):
    """Two contents may have one version where a store counts them badly: what it names is not ours to remove."""
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    monkeypatch.setattr("holdfast.engine.replication.large.part_bytes_for", lambda size, limits: 1000)
    monkeypatch.setattr(streams, "canonical", lambda state: canonical([state[0], *state[4:]]))
    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    for state in STATES:
        world.source.put("a", state)
        assert world.sync().targets[0].ok
    shown = [see(world.stores["gcp"], record)["a"] for record in records(world.stores["gcp"], DATASET)]
    assert sorted(shown) == sorted(STATES)


@dataclass
class CannotWithdraw:
    """A target whose store names objects by their MD5 and breaks when something is to be taken back."""

    names_by_md5 = True
    active: bool = True
    error: HoldfastError | None = None

    @property
    def landing(self) -> Any:
        return self

    def fail(self, error):
        self.active, self.error = False, error

    def land(self, *_):
        return Landed("data/market/a", ObjectVersion(f'"{"0" * 32}"'), "copied", "provider")

    def withdraw(self, landed):
        raise StoreUnavailable("cut off", where=landed.key)


class NamedByMd5(StoreDecorator):
    def open(self, key, **kwargs):
        reader = self.inner.open(key)
        return replace(reader, info=replace(reader.info, version=ObjectVersion(f'"{"1" * 32}"')))


def test_a_target_that_breaks_while_a_wrong_read_is_taken_back_stops_alone():
    source, receiver = NamedByMd5(memory_store("aws")), CannotWithdraw()
    source.put("data/market/a", b"bytes")
    copier = SmallCopier(source, [receiver], FakeClock())
    told = iter([False, True])
    copier.check = SimpleNamespace(agrees=lambda *_, **__: next(told))
    pin = ObjectVersion(f'"{"1" * 32}"')
    done = copier.copy(Item(0, "a", "data/market/a", "a", 5, pin, None, None, (Need(0),)))
    assert done.digest == digest_of(b"bytes"), "the source was read right the second time"
    assert isinstance(receiver.error, StoreUnavailable)
    assert done.landed == ()
