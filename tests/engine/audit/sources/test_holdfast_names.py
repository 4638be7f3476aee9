"""Names in a bucket are anybody's: none of them keeps an export from being sealed."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.engine.audit.interface import Interval
from holdfast.engine.audit.manifest import safe_path
from holdfast.engine.audit.sources.holdfast import HoldfastEvents
from holdfast.engine.objectstore import memory_store


def test_names_that_are_too_long_or_one_where_case_is_ignored_are_documents_of_their_own() -> None:
    store = memory_store("site")
    drills = ["20260301T120000Z-abc", "20260301t120000z-abc", "x", "X", "a b", "a_b", "l" * 400]
    for drill in drills:
        store.put(f"evidence/{drill}/journal.json", b"{}")
    source = HoldfastEvents("holdfast", {"site": store})
    window = Interval(datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
    assert list(source.read(window))
    names = [one.name for one in source.documents(window)]
    assert len({safe_path(f"documents/holdfast/000000/{name}").lower() for name in names}) == len(drills)
    assert {"evidence/20260301T120000Z-abc/journal.json", "evidence/x/journal.json"} <= set(names)
