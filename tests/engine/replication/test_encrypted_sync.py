"""A dataset that lies encrypted at its standby: the sync does not notice, and nobody without the key reads it."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import Cloud, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing, stored_size
from holdfast.engine.replication.sync import SyncReport, SyncSite, sync_dataset
from holdfast.engine.snapshot import read_receipt
from holdfast.engine.snapshot.verify import verify

SITE = Site(cloud=Cloud.AWS, region="r", jurisdiction="EU", connection="none", bucket="b")


Layout = Literal["direct", "staged"]


def away(base: ObjectStore) -> EncryptedStore:
    return EncryptedStore(base, [Scope("data/sales/", "sales", lambda: KeyRing((bytes(32),)))])


class BrokenOff(Exception):
    pass


def broken_off(*_: object) -> None:
    raise BrokenOff


def sync(source: ObjectStore, target: ObjectStore, *, layout: Layout = "direct", refuse: bool = False) -> SyncReport:
    return sync_dataset(
        SyncSite("home", source),
        [SyncSite("away", target)],
        dataset="sales",
        folder="sales",
        policy=Sync(encrypt="SALES_KEY", layout=layout),
        epoch=1,
        residency=None,
        topology_sites={"home": SITE, "away": SITE},
        clock=SystemClock(),
        validate=broken_off if refuse else None,
    )


@pytest.mark.parametrize("first", ["plain", "encrypted"])
@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("layout", ["direct", "staged"])
def test_a_replica_is_brought_again_when_encryption_is_switched(first: str, change: bool, layout: Layout) -> None:
    source, base = memory_store("home"), memory_store("away")
    for name, data in (("small", b"tiny"), ("bigger", bytes(5000))):
        source.put(f"data/sales/{name}", data)
    before, after = (base, away(base)) if first == "plain" else (away(base), base)
    newest = sync(source, before, layout=layout).record
    if change:
        source.put("data/sales/bigger", bytes(6000))
    done = sync(source, after, layout=layout)
    [report] = done.targets
    assert (report.error, report.copied_objects) == (None, 2)
    newest = done.record or newest
    assert newest is not None
    seen = verify(after, newest)
    assert (seen.checked_objects, seen.missing, seen.corrupt) == (2, (), ())
    receipt = read_receipt(base, "sales", newest.snapshot_id, "away")
    assert receipt is not None
    assert receipt.encrypted is (first == "plain")
    [report] = sync(source, after, layout=layout).targets
    assert report.copied_objects == 0


def test_what_a_run_noted_before_encryption_was_turned_on_is_not_believed() -> None:
    source, base = memory_store("home"), memory_store("away")
    for number in range(4):
        source.put(f"data/sales/f{number}", bytes([number]) * 500)
    with pytest.raises(BrokenOff):
        sync(source, base, refuse=True)
    assert any("/copied/" in info.key for info in base.list("uploads/"))
    done = sync(source, away(base))
    assert (done.targets[0].error, done.targets[0].copied_objects) == (None, 4)
    assert done.record is not None
    assert verify(away(base), done.record).corrupt == ()


def test_a_replica_is_encrypted_and_opens_as_the_source() -> None:
    source, base = memory_store("home"), memory_store("away")
    rng = random.Random(4)
    contents = {f"f{number}": rng.randbytes(number * 40_000) for number in range(8)}
    contents["large"] = rng.randbytes(40 * 1024 * 1024)
    for name, data in contents.items():
        source.put(f"data/sales/{name}", iter([data]), content_type="text/csv")

    done = sync(source, away(base))
    [report] = done.targets
    assert (report.copied_objects, report.error, report.losses) == (9, None, ())

    stored = {info.key.rpartition("/")[2]: info.size_bytes for info in base.list("data/sales/")}
    assert stored == {name: stored_size(len(data)) for name, data in contents.items()}
    assert done.record is not None
    seen = verify(away(base), done.record)
    assert (seen.checked_objects, seen.missing, seen.corrupt, seen.extra) == (9, (), (), ())

    source.put("data/sales/f3", b"changed")
    [report] = sync(source, away(base)).targets
    assert (report.copied_objects, report.carried_objects) == (1, 8)
