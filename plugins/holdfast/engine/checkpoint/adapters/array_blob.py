"""NumPy arrays as one blob in the layout of safetensors, written and read without the safetensors package.

The reader trusts nothing: it takes a blob only when its header is well formed and the arrays fill the rest exactly,
each byte once, in any order. There is no element type that could hold an object, hence nothing to execute.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian length of the header; the header, a JSON object
``name -> {"dtype", "shape", "data_offsets"}``; the arrays, little-endian, row by row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_HEADER_BYTES = 100_000_000


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Equal arrays give equal bytes, whatever the order of the names.

    Raises:
        CheckpointError: an array of an element type that the layout has not, e.g. objects.
    """
    import numpy as np

    header: dict[str, Any] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        little = array.dtype.newbyteorder("<").str
        if little not in _NAMES:
            raise CheckpointError(
                f"an array of {array.dtype} cannot be part of a checkpoint",
                where=name,
                expected=f"one of {', '.join(_NAMES)}",
                found=str(array.dtype),
                fix="Keep numbers in arrays and the rest as JSON; objects would need pickle, which runs code on load",
            )
        data = np.ascontiguousarray(array, dtype=little).tobytes()
        header[name] = {
            "dtype": _NAMES[little],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def unpack_arrays(blob: bytes, *, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a blob, each writable and its own.

    Raises:
        CheckpointUnreadable: the blob is not in this layout, or its arrays overlap, leave gaps or pass its end.
    """
    import numpy as np

    header, data = _header(blob, where)
    arrays: dict[str, NDArray[Any]] = {}
    expected_begin = 0
    entries = sorted((_entry(name, one, where) for name, one in header.items()), key=lambda entry: entry[3])
    for name, dtype, shape, begin, end in entries:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if begin != expected_begin or end - begin != size or end > len(data):
            raise _unreadable(
                where, f"array {name} at bytes {expected_begin} to {expected_begin + size}", f"{begin} to {end}"
            )
        expected_begin = end
        arrays[name] = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape).copy()
    if expected_begin != len(data):
        raise _unreadable(where, f"{expected_begin} bytes of arrays", str(len(data)))
    return arrays


def _header(blob: bytes, where: str) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(len(blob) - 8, _MOST_HEADER_BYTES):
        raise _unreadable(where, "a header within the blob", f"{len(blob)} bytes, a header of {length}")
    try:
        header = json.loads(blob[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, "a JSON header", str(error)) from None
    if not isinstance(header, dict):
        raise _unreadable(where, "a JSON object as header", type(header).__name__)
    header.pop("__metadata__", None)
    return header, memoryview(blob)[8 + length :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in it")
    return dict(pairs)


def _entry(name: str, one: Any, where: str) -> tuple[str, str, tuple[int, ...], int, int]:
    try:
        (begin, end), shape, dtype = one["data_offsets"], tuple(one["shape"]), _DTYPES[one["dtype"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(where, f"dtype, shape and data_offsets of {name}", f"{one} ({error})") from None
    numbers = (begin, end, *shape)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise _unreadable(where, f"integers from 0 on in {name}", str(one))
    return name, dtype, shape, begin, end


def _unreadable(where: str, expected: str, found: str) -> CheckpointUnreadable:
    return CheckpointUnreadable("the arrays of the checkpoint are damaged", where=where, expected=expected, found=found)


def is_plain(array: np.ndarray[Any, Any]) -> bool:
    """Whether `pack_arrays` takes it."""
    return array.dtype.newbyteorder("<").str in _NAMES
