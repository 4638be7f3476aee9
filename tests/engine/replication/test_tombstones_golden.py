"""docs/formats/tombstone.md to the byte: today's code reads what was written before, and spells it the same."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.engine.objectstore import memory_store
from holdfast.engine.replication.tombstones import (
    Expired,
    Finished,
    Spared,
    Tombstone,
    TombstoneDamaged,
    finish,
    read_graveyard,
)
from holdfast.engine.snapshot.removals import Removal, expired_ids, removals

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "tombstone"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Tombstone, "tombstone"),
        (Spared, "spared"),
        (Finished, "finished"),
        (Removal, "removal"),
        (Expired, "expired"),
    ],
)
def test_each_document_is_read_and_spelled_the_same(kind, name):
    assert kind.model_validate_json(golden(f"{name}.json")).to_json() == golden(f"{name}.json")


def test_a_tombstone_and_what_was_spared_lie_under_their_keys_and_are_found():
    tombstone = Tombstone.model_validate_json(golden("tombstone.json"))
    spared = Spared.model_validate_json(golden("spared.json"))
    assert (tombstone.key, spared.key) == (golden("tombstone.key").decode(), golden("spared.key").decode())
    assert tombstone.remove_after - tombstone.marked_at == timedelta(days=7)
    store = memory_store()
    store.put(tombstone.key, golden("tombstone.json"))
    store.put(spared.key, golden("spared.json"))
    found = read_graveyard(store, "market-data")
    assert [item.path for item in found.pending[0].objects] == ["c.json"]
    assert found.undone == {tombstone.objects[0].identity}
    finish(store, "market-data", Finished.model_validate_json(golden("finished.json")))
    assert read_graveyard(store, "market-data").pending == ()
    assert read_graveyard(store, "market-data").undone == found.undone


def test_an_intent_and_an_expiry_lie_under_their_keys():
    store = memory_store()
    removal, expired = (
        Removal.model_validate_json(golden("removal.json")),
        Expired.model_validate_json(golden("expired.json")),
    )
    store.put(removal.key, golden("removal.json"))
    store.put(expired.key, golden("expired.json"))
    assert list(removals(store, "market-data")) == [removal]
    assert expired_ids(store, "market-data") == {expired.snapshot_id}
    assert read_graveyard(store, "market-data").pending == ()


@pytest.mark.parametrize("change", [(b'"size_bytes":7', b'"size_bytes":8'), (b"{", b"["), (b"/1", b"/2")])
def test_a_tombstone_that_was_changed_is_refused(change):
    store = memory_store()
    store.put(golden("tombstone.key").decode(), golden("tombstone.json").replace(*change))
    with pytest.raises(TombstoneDamaged):
        read_graveyard(store, "market-data")
