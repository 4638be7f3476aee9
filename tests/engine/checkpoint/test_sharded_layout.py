"""The layout of the shards is read without trust: what it says must be possible, and its blobs must hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.worlds import manifest_of
from holdfast.engine.checkpoint import CheckpointManifest, CheckpointUnreadable
from holdfast.engine.checkpoint.commit import ensure_blob
from holdfast.engine.checkpoint.format import BlobRef, blob_key, canonical, digest_of
from holdfast.engine.checkpoint.sharded.layout import LAYOUT_BLOB, parse_layout
from holdfast.engine.objectstore import ObjectStore, memory_store

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint" / "sharded.json"
BLOBS = (
    "model-r00000-000.safetensors",
    "model-r00001-000.safetensors",
    "generators-r00000.json",
    "generators-r00001.json",
    "optimizer-r00000-000.safetensors",
)
SIZES = dict.fromkeys(BLOBS, 1000)


def golden() -> Any:
    return json.loads(GOLDEN.read_bytes())


def weight(layout: Any) -> Any:
    return layout["tensors"]["model.weight"]


def test_the_golden_layout_is_read_and_written_byte_for_byte() -> None:
    layout = parse_layout(GOLDEN.read_bytes(), blobs=SIZES, where="sharded.json")
    assert layout.world == 2
    assert [chunk.offsets for chunk in layout.tensors["model.weight"].chunks] == [(0, 0), (2, 0)]
    assert layout.data == GOLDEN.read_bytes()


def shift(by: int) -> Callable[[Any], None]:
    def lie(layout: Any) -> None:
        weight(layout)["chunks"][1]["offsets"][0] += by

    return lie


def lose_a_piece(layout: Any) -> None:
    weight(layout)["chunks"].pop()


def empty_piece(layout: Any) -> None:
    weight(layout)["chunks"].append({**weight(layout)["chunks"][0], "shape": [0, 3]})


def another_rank_of_piece(layout: Any) -> None:
    weight(layout)["chunks"][0].update(offsets=[0], shape=[2])


def a_scalar_twice(layout: Any) -> None:
    chunk = layout["tensors"]["optimizer.weight.step"]["chunks"][0]
    layout["tensors"]["optimizer.weight.step"]["chunks"] = [chunk, chunk]


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (shift(-1), "overlap"),
        (shift(1), "beyond its tensor"),
        (shift(-5), "not readable"),
        (lose_a_piece, "leaves a hole"),
        (empty_piece, "empty piece"),
        (another_rank_of_piece, "beyond its tensor"),
        (a_scalar_twice, "overlap"),
        (
            lambda layout: weight(layout)["chunks"][0].update(blob="model-r00009-000.safetensors"),
            "manifest does not have",
        ),
        (lambda layout: weight(layout).update(dtype="OBJECT"), "element type"),
        (lambda layout: weight(layout)["chunks"][0].update(code="import os"), "not readable"),
        (lambda layout: layout.update(world=3), "blob per rank"),
        (lambda layout: layout.update(world=True), "not readable"),
        (
            lambda layout: layout["own"].update({"generators.json": ["generators-r00000.json", "elsewhere"]}),
            "manifest does",
        ),
        (lambda layout: layout.update(format="holdfast.sharded/2"), "not readable"),
        (lambda layout: weight(layout).update(shape=[2**60, 2**60]), "not readable"),
    ],
)
def test_a_layout_that_lies_is_refused_with_one_error(lie: Callable[[Any], None], word: str) -> None:
    layout = golden()
    lie(layout)
    # Not `canonical`, which would refuse some of the numbers itself.
    data = json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(CheckpointUnreadable, match=word):
        parse_layout(data, blobs=SIZES, where="sharded.json")


def test_a_layout_that_claims_more_than_its_blobs_hold_makes_nobody_find_memory_for_it() -> None:
    layout = golden()
    weight(layout).update(shape=[2**40])
    weight(layout).update(chunks=[{**weight(layout)["chunks"][0], "offsets": [0], "shape": [2**40]}])
    with pytest.raises(CheckpointUnreadable, match="more than its blob holds"):
        parse_layout(canonical(layout), blobs=SIZES, where="sharded.json")


def test_other_bytes_of_the_same_meaning_are_refused() -> None:
    with pytest.raises(CheckpointUnreadable, match="canonical"):
        parse_layout(GOLDEN.read_bytes() + b"\n", blobs=SIZES, where="sharded.json")


def test_pieces_in_two_dimensions_cover_or_do_not() -> None:
    layout = golden()
    quarter = {"blob": BLOBS[0], "name": "w", "shape": [2, 2]}
    corners = [[0, 0], [0, 2], [2, 0], [2, 2]]
    weight(layout).update(shape=[4, 4], chunks=[{**quarter, "offsets": corner} for corner in corners])
    parse_layout(canonical(layout), blobs=SIZES, where="sharded.json")
    weight(layout)["chunks"][3]["offsets"] = [1, 1]
    with pytest.raises(CheckpointUnreadable, match="overlap"):
        parse_layout(canonical(layout), blobs=SIZES, where="sharded.json")


# -- and with blobs -------------------------------------------------------------------------------------------------


def saved(change: Callable[[Any], None] = lambda _layout: None, *, dtype: str = "float32") -> Any:
    """A checkpoint of two ranks with the golden layout, changed, and blobs that fit the unchanged one."""
    torch = pytest.importorskip("torch")
    from holdfast.engine.checkpoint.adapters.torch_tensors import blob_of

    layout = golden()
    halves = {"model.weight@0,0": torch.arange(6).reshape(2, 3), "model.weight@2,0": torch.arange(6, 9).reshape(1, 3)}
    first, second = (blob_of({name: half.to(getattr(torch, dtype))}) for name, half in halves.items())
    step = blob_of({"optimizer.weight.step@": torch.tensor(5.0)})
    change(layout)
    blobs = dict(zip(BLOBS, (first, second, b"{}", b"{}", step), strict=True))
    blobs |= {LAYOUT_BLOB: canonical(layout), "rest.json": b"{}"}
    store = memory_store()
    return store, written(store, blobs)


def written(store: ObjectStore, blobs: dict[str, bytes]) -> CheckpointManifest:
    references = {name: BlobRef(digest=digest_of(data), size_bytes=len(data)) for name, data in blobs.items()}
    for name, data in blobs.items():
        ensure_blob(store, "run", references[name].digest, data)
    return manifest_of(5, blobs=references, model=b"")[0].model_copy(update={"model": (BLOBS[0],)})


@pytest.mark.torch
def test_the_pieces_are_put_together() -> None:
    torch = pytest.importorskip("torch")
    from holdfast.engine.checkpoint.sharded import SavedShards

    whole = SavedShards(*saved()).whole("model.")
    assert torch.equal(whole["weight"], torch.arange(9.0).reshape(3, 3))
    target = torch.zeros(3, 3)
    SavedShards(*saved()).load({"model.weight": target, "optimizer.weight.step": torch.zeros(())})
    assert torch.equal(target, whole["weight"])


@pytest.mark.torch
@pytest.mark.parametrize(
    ("change", "dtype", "found"),
    [
        (lambda _layout: None, "float64", "torch.float64"),
        (lambda layout: weight(layout)["chunks"][0].update(name="weight"), "float32", "nothing"),
        (lambda layout: weight(layout)["chunks"][0].update(blob=BLOBS[1]), "float32", "nothing"),
    ],
)
def test_a_blob_that_does_not_hold_what_the_layout_says_is_refused(change: Any, dtype: str, found: str) -> None:
    torch = pytest.importorskip("torch")
    from holdfast.engine.checkpoint.sharded import SavedShards

    both = {"model.weight": torch.zeros(3, 3), "optimizer.weight.step": torch.zeros(())}
    for read in (lambda it: it.whole(), lambda it: it.load(both)):
        with pytest.raises(CheckpointUnreadable, match=f"does not hold.*{found}"):
            read(SavedShards(*saved(change, dtype=dtype)))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shape", "dtype", "more", "found"),
    [
        ((3, 4), "float32", {}, r"float32 \[3, 3\]"),
        ((3, 3), "float64", {}, r"float32 \[3, 3\]"),
        ((3, 3), "float32", {"model.bias": (1,)}, "found none"),
        ((3, 3), "float32", {"optimizer.weight.step": None}, "expected no such tensor"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(shape: Any, dtype: str, more: Any, found: str) -> None:
    torch = pytest.importorskip("torch")
    from holdfast.engine.checkpoint.sharded import SavedShards

    shapes = {"optimizer.weight.step": (), **more}
    tensors = {name: torch.zeros(size) for name, size in shapes.items() if size is not None}
    with pytest.raises(CheckpointUnreadable, match=found):
        SavedShards(*saved()).load({"model.weight": torch.zeros(shape, dtype=getattr(torch, dtype)), **tensors})


@pytest.mark.torch
def test_a_blob_that_is_gone_or_damaged_is_refused() -> None:
    pytest.importorskip("torch")
    from holdfast.engine.checkpoint.sharded import SavedShards

    for damage in (lambda store, key: store.delete(key), lambda store, key: store.put(key, b"other bytes")):
        store, manifest = saved()
        damage(store, blob_key("run", manifest.blobs[BLOBS[1]].digest))
        with pytest.raises(CheckpointUnreadable, match="changed after it was verified"):
            SavedShards(store, manifest).whole()


@pytest.mark.torch
def test_a_checkpoint_that_is_not_sharded_says_so() -> None:
    pytest.importorskip("torch")
    from holdfast.engine.checkpoint.sharded import SavedShards

    with pytest.raises(CheckpointUnreadable, match="not of a distributed run"):
        SavedShards(memory_store(), manifest_of(1)[0])


@pytest.mark.torch
def test_what_is_no_tensor_is_never_pickled() -> None:
    pytest.importorskip("torch")
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    from holdfast.engine.checkpoint.sharded.state import ShardedState
    from holdfast.engine.checkpoint.sharded.storage import ShardReader, ShardWriter

    state = ShardedState({}, {}, {}, {})
    writer = ShardWriter(memory_store(), "run", rank=0, state=state, intact=set(), commit=lambda _written: None)
    assert isinstance(writer, dcp.StorageWriter)
    assert issubclass(ShardReader, dcp.StorageReader)
    with pytest.warns(UserWarning, match="disabled"), pytest.raises(dcp.CheckpointException, match="is no tensor"):
        dcp.save({"lr": 0.1}, storage_writer=writer, no_dist=True)
