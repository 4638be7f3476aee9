"""What the receipts of real syncs say is what was copied: new bytes only, each time."""

from __future__ import annotations

from pathlib import Path

from folders import folder_runtime, make_folders
from holdfast.engine.cost.movements import read_movements
from holdfast.engine.cost.periods import month_of
from holdfast.engine.cost.report import sync_lags
from holdfast.engine.pipeline import sync


def test_a_sync_is_metered_by_what_it_copied(tmp_path: Path) -> None:
    runtime = folder_runtime(make_folders(tmp_path))
    data = tmp_path / "site-a" / "data" / "prices"
    data.mkdir(parents=True)
    for name, size in (("one.bin", 1000), ("two.bin", 200), ("three.bin", 50)):
        (data / name).write_bytes(bytes(size))
        sync.run(runtime, "desk", "prices")
    stores = runtime.stores(["site-a", "site-b", "site-c"])
    found = read_movements(stores, month_of(runtime.clock.now()))
    assert found.unreadable == ()
    by_site = {site: [one.least_bytes for one in found.found if one.target == site] for site in ("site-b", "site-c")}
    assert by_site["site-b"] == [1000, 200, 50]
    assert all(one.least_bytes == one.most_bytes and one.source == "site-a" for one in found.found)
    assert [one.objects for one in found.found if one.target == "site-b"] == [1, 1, 1]
    lags = sync_lags(stores, found)
    assert 0 <= lags["prices", "site-b"] < 3600
