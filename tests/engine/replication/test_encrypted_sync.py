"""A dataset that lies encrypted at its standby: the sync does not notice, and nobody without the key reads it."""

from __future__ import annotations

import random

from holdfast.clock import SystemClock
from holdfast.engine.config import Cloud, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing, stored_size
from holdfast.engine.replication.sync import SyncReport, SyncSite, sync_dataset
from holdfast.engine.snapshot.verify import verify

SITE = Site(cloud=Cloud.AWS, region="r", jurisdiction="EU", connection="none", bucket="b")


def away(base: ObjectStore) -> EncryptedStore:
    return EncryptedStore(base, [Scope("data/sales/", "sales", lambda: KeyRing((bytes(32),)))])


def sync(source: ObjectStore, target: ObjectStore) -> SyncReport:
    return sync_dataset(
        SyncSite("home", source),
        [SyncSite("away", target)],
        dataset="sales",
        folder="sales",
        policy=Sync(encrypt="SALES_KEY"),
        epoch=1,
        residency=None,
        topology_sites={"home": SITE, "away": SITE},
        clock=SystemClock(),
    )


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
