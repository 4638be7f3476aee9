"""NumPy arrays as one blob in the layout of `tensors`. No element type could hold an object, so nothing can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable
from holdfast.engine.checkpoint.tensors import TensorSpec, layout, parse_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The layout's types that NumPy has.
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


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Equal arrays give equal bytes, whatever the order of the names.

    Raises:
        CheckpointError: an array of an element type that the layout has not, e.g. objects.
    """
    import numpy as np

    plan = layout([TensorSpec(name, _type_of(name, arrays[name]), arrays[name].shape) for name in sorted(arrays)])
    parts = [np.ascontiguousarray(arrays[spec.name], dtype=_DTYPES[spec.dtype]).tobytes() for spec in plan.specs]
    return b"".join([plan.header, *parts])


def unpack_arrays(blob: bytes, *, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a blob, each writable and its own.

    Raises:
        CheckpointUnreadable: see `parse_tensors`; or an array is of a type that NumPy has not.
    """
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    for name, (spec, data) in parse_tensors(blob, where=where).items():
        if spec.dtype not in _DTYPES:
            raise CheckpointUnreadable(
                "NumPy has no such element type",
                where=f"{where}: {name!r}",
                expected=f"one of {', '.join(_DTYPES)}",
                found=spec.dtype,
            )
        arrays[name] = np.frombuffer(data, dtype=_DTYPES[spec.dtype]).reshape(spec.shape).copy()
    return arrays


def is_plain(array: np.ndarray[Any, Any]) -> bool:
    """Whether `pack_arrays` takes it."""
    return array.dtype.newbyteorder("<").str in _NAMES


def _type_of(name: str, array: NDArray[Any]) -> str:
    if not is_plain(array):
        raise CheckpointError(
            f"an array of {array.dtype} cannot be part of a checkpoint",
            where=name,
            expected=f"one of {', '.join(_NAMES)}",
            found=str(array.dtype),
            fix="Keep numbers in arrays and the rest as JSON; objects would need pickle, which runs code on load",
        )
    return _NAMES[array.dtype.newbyteorder("<").str]
