"""Tensors in bytes: the safetensors layout, written in place and read without trust.

A blob of tensors is ``<8 bytes: header length><JSON header><data>`` (the format of huggingface/safetensors 0.x). It
holds names, types, shapes and numbers and nothing that could run; a reader that refuses overlapping or missing ranges
needs no more. The header is known before the data, so a checkpoint copies each tensor to its place in a buffer that
*is* the blob.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.engine.checkpoint.errors import CheckpointUnreadable

#: Bytes per element of every type that is read and written.
ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
#: The format's own bound; a larger header is an attack or damage.
HEADER_BYTES_MAX = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a blob.

    Args:
        dtype: a key of `ITEM_BYTES`.
        shape: empty for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of a blob lies: ``header`` first, then the data at ``offsets`` from the blob's begin."""

    header: bytes
    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    size_bytes: int


def layout(specs: Sequence[TensorSpec]) -> Layout:
    """Lay tensors out in the given order, the data aligned to eight bytes."""
    entries: dict[str, Any] = {}
    position = 0
    positions = []
    # Wide types first, so that every tensor is aligned to its own element.
    for spec in sorted(specs, key=lambda spec: -ITEM_BYTES[spec.dtype]):
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.size_bytes],
        }
        positions.append((spec, position))
        position += spec.size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(
        header,
        tuple(spec for spec, _ in positions),
        tuple(len(header) + at for _, at in positions),
        len(header) + position,
    )


def parse_tensors(data: bytes | memoryview, *, where: str) -> dict[str, tuple[TensorSpec, memoryview]]:
    """The tensors of a blob, each with its bytes (no copy).

    Raises:
        CheckpointUnreadable: it is no such blob: a pickle, an unknown type, ranges that overlap, leave holes or
            reach beyond the end, or do not fit their shape.
    """
    view = memoryview(data).cast("B")
    specs, begin = _specs(view, len(view), where)
    return {spec.name: (spec, view[begin + start : begin + end]) for spec, start, end in specs}


def header_bytes(begin: bytes | memoryview) -> int:
    """How many bytes of a blob `check_tensors` needs, by its first eight."""
    return 8 + min(int.from_bytes(begin[:8], "little"), HEADER_BYTES_MAX)


def check_tensors(begin: bytes | memoryview, size_bytes: int, *, where: str) -> None:
    """What `parse_tensors` would say of a blob of so many bytes, by its header alone. Raises CheckpointUnreadable."""
    _specs(memoryview(begin).cast("B"), size_bytes, where)


def _specs(view: memoryview, size_bytes: int, where: str) -> tuple[list[tuple[TensorSpec, int, int]], int]:
    """Each tensor and its range in the data; where the data begins."""
    entries, begin = _header(view, size_bytes, where)
    specs = [_entry(name, entry, where) for name, entry in entries.items() if name != "__metadata__"]
    _check_ranges([(start, end, spec.name) for spec, start, end in specs], size_bytes - begin, where)
    return specs, begin


def _header(view: memoryview, size_bytes: int, where: str) -> tuple[Mapping[str, Any], int]:
    def refuse(found: str) -> CheckpointUnreadable:
        return CheckpointUnreadable(
            "these are no tensors Holdfast reads",
            where=where,
            expected="the safetensors layout; pickle is never read",
            found=found,
        )

    if len(view) < 8:
        raise refuse(f"{len(view)} bytes")
    if bytes(view[8:9]) != b"{" and (foreign := _foreign(bytes(view[:4]))) is not None:
        raise refuse(foreign)
    length = int.from_bytes(view[:8], "little")
    if length > min(HEADER_BYTES_MAX, size_bytes - 8):
        raise refuse(f"a header of {length} bytes in {size_bytes}")
    try:
        entries = json.loads(bytes(view[8 : 8 + length]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise refuse(f"a header that is no JSON: {error}") from None
    if not isinstance(entries, dict):
        raise refuse("a header that is no object")
    return entries, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in it")
    return dict(pairs)


def _foreign(magic: bytes) -> str | None:
    """What bytes that are no header of tensors are instead, for the message; a length may begin like anything."""
    if magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle"
    return "a ZIP archive, as torch.save writes it around a pickle" if magic == b"PK\x03\x04" else None


def _entry(name: str, entry: Any, where: str) -> tuple[TensorSpec, int, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = dtype in ITEM_BYTES and all(type(n) is int and n >= 0 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise CheckpointUnreadable(
            "a tensor is described in a way Holdfast does not read",
            where=f"{where}: {name!r}",
            expected=f"dtype (one of {', '.join(ITEM_BYTES)}), shape, data_offsets",
            found=str(entry)[:200],
        )
    spec = TensorSpec(name, dtype, shape)
    if end - start != spec.size_bytes:
        raise CheckpointUnreadable(
            "a tensor's bytes do not fit its shape",
            where=f"{where}: {name!r}",
            expected=f"{spec.size_bytes} bytes for {dtype} {list(shape)}",
            found=f"{end - start}",
        )
    return spec, start, end


def _check_ranges(ranges: list[tuple[int, int, str]], size_bytes: int, where: str) -> None:
    position = 0
    for start, end, name in sorted(ranges):
        if start != position:
            raise CheckpointUnreadable(
                "the tensors overlap" if start < position else "the tensors leave a hole",
                where=f"{where}: {name!r}",
                expected=f"to begin at byte {position}",
                found=str(start),
            )
        position = end
    if position != size_bytes:
        raise CheckpointUnreadable(
            "the tensors do not end where their bytes do",
            where=where,
            expected=f"{position} bytes",
            found=str(size_bytes),
        )
