"""The bytes of tensors: laid out as every reader of safetensors expects, and read without trust."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.tensors import ITEM_BYTES, TensorSpec, layout, parse_tensors

SPECS = st.lists(
    st.builds(
        TensorSpec,
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(ITEM_BYTES)),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
    ),
    max_size=8,
    unique_by=lambda spec: spec.name,
)


def filled(specs: list[TensorSpec]) -> bytes:
    plan = layout(specs)
    data = bytearray(plan.header) + bytes(index % 251 for index in range(plan.size_bytes - len(plan.header)))
    return bytes(data)


@given(SPECS)
def test_what_is_laid_out_is_read_back_aligned_and_whole(specs: list[TensorSpec]) -> None:
    data, plan = filled(specs), layout(specs)
    found = parse_tensors(data, where="blob")
    assert {spec for spec, _ in found.values()} == set(specs)
    for spec, offset in zip(plan.specs, plan.offsets, strict=True):
        assert bytes(found[spec.name][1]) == data[offset : offset + spec.size_bytes]
        assert offset % ITEM_BYTES[spec.dtype] == 0


@given(SPECS.filter(lambda specs: any(spec.size_bytes for spec in specs)), st.integers(1, 8))
def test_a_truncated_blob_is_refused(specs: list[TensorSpec], missing: int) -> None:
    with pytest.raises(CheckpointUnreadable):
        parse_tensors(filled(specs)[:-missing], where="blob")


def raw(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def blob(entries: Any, data: bytes) -> bytes:
    return raw(json.dumps(entries).encode(), data)


def entry(start: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (blob({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "overlap"),
        (blob({"a": entry(0, 4), "b": entry(5, 6)}, bytes(6)), "hole"),
        (blob({"a": entry(0, 4)}, bytes(6)), "do not end where"),
        (blob({"a": entry(0, 9)}, bytes(6)), "do not end where"),
        (blob({"a": entry(0, 4, shape=[5])}, bytes(4)), "do not fit its shape"),
        (blob({"a": entry(0, 4, dtype="OBJECT")}, bytes(4)), "in a way"),
        (blob({"a": entry(0, 4, shape=[-4])}, bytes(4)), "in a way"),
        (blob({"a": entry(0, 4, shape=[True, 4])}, bytes(4)), "in a way"),
        (blob({"a": entry(0, 4, shape=[2**40, 2**40])}, bytes(4)), "do not fit its shape"),
        (blob({"a": {**entry(0, 4), "shape": "4"}}, bytes(4)), "in a way"),
        (blob({"a": {**entry(0, 4), "dtype": []}}, bytes(4)), "in a way"),
        (blob({"a": 5}, b""), "in a way"),
        (raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)), "stands twice"),
        (raw(b"[" * 100_000, b""), "no JSON"),
        (blob([], b""), "no object"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "a header of"),
        (b"\x02\0\0\0\0\0\0\0{]", "no JSON"),
        (b"", "0 bytes"),
        (pickle.dumps({"weights": [1.0] * 10}), "a pickle"),
    ],
)
def test_bytes_that_are_no_honest_tensors_are_refused(data: bytes, found: str) -> None:
    with pytest.raises(CheckpointUnreadable, match=found):
        parse_tensors(data, where="blob")


def test_what_torch_save_writes_is_refused_by_its_name() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointUnreadable, match=r"torch\.save"):
        parse_tensors(archive.getvalue(), where="blob")


@pytest.mark.torch
def test_the_safetensors_library_reads_ours_and_we_read_its() -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    from holdfast.engine.checkpoint.adapters.torch_tensors import blob_of, tensors_of

    generator = torch.Generator().manual_seed(1)
    tensors = {
        "half": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 7),
        "turned": torch.randn(4, 6, generator=generator).t(),
        "many": torch.arange(9),
    }
    for read in (library.load(blob_of(tensors)), tensors_of(bytearray(blob_of(tensors)), where="blob")):
        assert set(read) == set(tensors)
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    theirs = library.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert all(torch.equal(tensors_of(bytearray(theirs), where="blob")[name], tensors[name]) for name in tensors)
