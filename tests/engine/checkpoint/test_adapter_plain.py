"""A trainer of one's own comes back as it was, from bytes that can hold no code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.checkpoint.killed import run_killed
from holdfast.engine.checkpoint import CheckpointError, CheckpointUnreadable, TrainingState
from holdfast.engine.checkpoint.adapters.array_blob import pack_arrays, unpack_arrays
from holdfast.engine.checkpoint.adapters.plain import ARRAYS_BLOB, MODEL_BLOB, PlainAdapter


class Holder:
    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = value

    def state(self) -> Mapping[str, Any]:
        return self.value

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.value = state


def there_and_back(value: Mapping[str, Any], **arguments: Any) -> Any:
    after = Holder({})
    PlainAdapter(after).load_state(PlainAdapter(Holder(value), **arguments).state())
    return after.value


def test_a_run_killed_twice_ends_as_one_nobody_disturbed(tmp_path: Path) -> None:
    undisturbed = run_killed("plain", tmp_path / "undisturbed", ())
    assert run_killed("plain", tmp_path / "killed", (5, 11)).blobs == undisturbed.blobs


def test_nested_values_come_back_with_their_types_and_bits() -> None:
    value = {
        "numbers": [1, 1.0, -0.0, 5e-324, 2**200, True, None],
        "text": {"$odd": "é\0", 3: (1, (2,)), "empty": {}},
        "bytes": b"\x00\xff",
        "rng": np.random.default_rng(1).bit_generator.state,
    }
    back = there_and_back(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8", ">f8", "U5", object]
)
def test_arrays_of_every_type_and_layout_come_back(dtype: Any) -> None:
    data = np.arange(12).reshape(3, 4)
    array = np.array([str(one) for one in data.ravel()], dtype=dtype).reshape(3, 4) if dtype in ("U5", object) else None
    array = data.astype(dtype) if array is None else array
    for one in (array, array[:0], array[1, 2:3].reshape(()), np.asfortranarray(array), array[::2, ::-1]):
        back = there_and_back({"x": {"y": [one]}})["x"]["y"][0]
        assert back.tolist() == one.tolist()
        assert (back.shape, back.dtype) == (one.shape, one.dtype.newbyteorder("="))
        assert back.flags.writeable
    if dtype not in ("U5", object):
        assert there_and_back({"x": np.asfortranarray(array)})["x"].flags.f_contiguous


def test_nan_keeps_its_bits_and_scalars_their_type() -> None:
    odd = np.array([0x7FF8000000000123, 0xFFF0000000000000], dtype=np.uint64).view(np.float64)
    back = there_and_back({"odd": odd, "scalar": np.float32(0.1)})
    assert back["odd"].tobytes() == odd.tobytes()
    assert type(back["scalar"]) is np.float32
    assert back["scalar"] == np.float32(0.1)


def test_one_array_in_two_places_is_one_again_and_names_do_not_collide() -> None:
    shared = np.arange(3.0)
    back = there_and_back({"a": shared, "b": [shared], "c/d": np.zeros(2), "c": {"d": np.ones(2)}})
    back["a"][0] = 7
    assert back["b"][0][0] == 7
    assert (back["c/d"].tolist(), back["c"]["d"].tolist()) == ([0, 0], [1, 1])


def test_the_state_is_a_copy_and_equal_states_are_equal_bytes() -> None:
    weights = np.zeros(3)
    adapter = PlainAdapter(Holder({"weights": weights}))
    first = adapter.state()
    before = dict(first.blobs)
    weights += 1
    assert first.blobs == before
    assert adapter.state().blobs != before
    weights -= 1
    assert adapter.state().blobs == before


def test_only_what_is_named_is_the_model() -> None:
    value = {"weights": {"w": np.ones(2)}, "moments": np.ones(3), "step": 4}
    state = PlainAdapter(Holder(value), model=("weights",)).state()
    assert state.model == (MODEL_BLOB,)
    assert list(unpack_arrays(state.blobs[MODEL_BLOB], where="t")) == ["weights/w"]
    assert list(unpack_arrays(state.blobs[ARRAYS_BLOB], where="t")) == ["moments"]
    assert set(PlainAdapter(Holder(value)).state().model) == set(state.blobs)
    with pytest.raises(CheckpointError, match="expected weight;"):
        PlainAdapter(Holder(value), model=("weight",)).state()


class Evil:
    def __reduce__(self) -> Any:
        return print, ("ran",)


@pytest.mark.parametrize(
    "planted",
    [Evil(), np.array([Evil()]), {1, 2}, print, np.array(["2026-01-01"], dtype="M8[D]"), np.zeros(2, dtype="f4,i4")],
    ids=["object", "object array", "set", "function", "dates", "records"],
)
def test_what_would_need_pickle_is_refused_when_it_is_saved(planted: Any) -> None:
    with pytest.raises(CheckpointError, match=r"a/0.*without pickle"):
        PlainAdapter(Holder({"a": [planted]})).state()


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CheckpointError, match="contains itself"):
        PlainAdapter(Holder({"loop": loop})).state()


def test_a_pickle_in_place_of_any_blob_is_refused_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    state = PlainAdapter(Holder({"w": np.ones(2)})).state()
    for name in state.blobs:
        holder = Holder({"untouched": True})
        with pytest.raises(CheckpointUnreadable):
            PlainAdapter(holder).load_state(TrainingState({**state.blobs, name: pickle.dumps(Evil())}))
        assert holder.value == {"untouched": True}
    assert capsys.readouterr().out == ""


def test_every_truncation_and_every_flipped_header_bit_is_refused_or_harmless() -> None:
    whole = pack_arrays({"a": np.arange(5.0), "b": np.arange(3, dtype=np.int32)})
    for end in range(len(whole)):
        with pytest.raises(CheckpointUnreadable):
            unpack_arrays(whole[:end], where="test")
    for place in range(8 * 40):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        try:
            arrays = unpack_arrays(bytes(changed), where="test")
        except CheckpointUnreadable:
            continue
        assert sum(array.nbytes for array in arrays.values()) == 5 * 8 + 3 * 4


def test_the_layout_is_that_of_safetensors() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]), "c": np.zeros((0, 3))}
    read = numpy.load(pack_arrays(arrays))
    ours = unpack_arrays(numpy.save(arrays, metadata={"format": "np"}), where="test")
    for name, array in arrays.items():
        for one in (read[name], ours[name]):
            assert (one.tolist(), one.dtype, one.shape) == (array.tolist(), array.dtype, array.shape)
