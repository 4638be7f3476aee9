"""PyTorch tensors in and out of the safetensors layout, without pickle and with one copy."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable
from holdfast.engine.checkpoint.format import digest_of
from holdfast.engine.checkpoint.live import LiveTensor
from holdfast.engine.checkpoint.tensors import TensorSpec, layout, parse_tensors

#: The layout's name of each type and PyTorch's.
_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
    "C64": "complex64",
}


@functools.cache
def _torch() -> Any:
    # By name: the type checker then says the same with and without PyTorch installed.
    return importlib.import_module("torch")


def live_tensor(name: str, tensor: Any, *, volatile: bool = False) -> LiveTensor:
    """A tensor of a module or optimizer as something to save. Raises CheckpointError for a type without a name."""
    dtype = _names().get(tensor.dtype)
    if dtype is None or tensor.layout is not _torch().strided:
        raise CheckpointError(
            "a tensor cannot be saved",
            where=name,
            expected=f"a dense tensor of {', '.join(_TYPES.values())}",
            found=f"{tensor.dtype}, {tensor.layout}",
        )
    return LiveTensor(_spec(name, dtype, tensor.shape), tensor, volatile)


@functools.cache
def _names() -> dict[Any, str]:
    return {getattr(_torch(), value): key for key, value in _TYPES.items()}


@functools.lru_cache(65_536)
def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    # The same tensors are saved again and again, and training waits while they are described.
    return TensorSpec(name, dtype, tuple(shape))


class TorchCopier:
    """Copies tensors, from any device, into memory of ours; the interpreter's lock is free meanwhile."""

    def target(self, spec: TensorSpec, slot: memoryview) -> Any:
        return _view(spec, slot)

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        torch = _torch()
        with torch.no_grad():
            for begin in range(0, len(pairs), 64):
                some = pairs[begin : begin + 64]
                torch._foreach_copy_([target for target, _ in some], [source for _, source in some])

    def digest(self, tensor: Any) -> str:
        return digest_of(_bytes_of(tensor))


def blob_of(tensors: Mapping[str, Any]) -> bytes:
    """A finished blob: every tensor copied."""
    live = {name: live_tensor(name, tensor) for name, tensor in tensors.items()}
    plan = layout([tensor.spec for tensor in live.values()])
    data = bytearray(plan.size_bytes)
    data[: len(plan.header)] = plan.header
    memory = memoryview(data)
    targets = [
        _view(spec, memory[at : at + spec.size_bytes]) for spec, at in zip(plan.specs, plan.offsets, strict=True)
    ]
    TorchCopier().copy([(target, live[spec.name].source) for target, spec in zip(targets, plan.specs, strict=True)])
    return bytes(data)


def tensors_of(data: bytes, *, where: str) -> dict[str, Any]:
    """The tensors of a blob, over its own bytes: do not change them. Raises CheckpointUnreadable."""
    # A writable copy: PyTorch warns about tensors over read-only memory, and an optimizer keeps what it is given.
    found = parse_tensors(memoryview(bytearray(data)), where=where)
    return {name: _view(spec, slot) for name, (spec, slot) in found.items()}


def is_part(blob: str, prefix: str) -> bool:
    """Whether a blob belongs to ``model`` or ``optimizer``; ``<prefix>.safetensors`` is how they were named once."""
    return re.fullmatch(rf"{prefix}(-[a-z]+)?(-\d+)?\.safetensors", blob) is not None


def copy_into(tensors: Mapping[str, Any], blobs: Mapping[str, bytes], prefix: str) -> None:
    """Copy every tensor of the blobs into the one of its name, one blob in memory at a time.

    Raises:
        CheckpointUnreadable: names or shapes differ; what was copied until then stays.
    """
    torch = _torch()
    left = dict(tensors)
    with torch.no_grad():
        for blob in sorted(blobs):
            if not is_part(blob, prefix):
                continue
            for name, tensor in tensors_of(blobs[blob], where=blob).items():
                target = left.pop(name, None)
                if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
                    raise CheckpointUnreadable(
                        "the checkpoint is not of this model",
                        where=f"{blob}: {name}",
                        expected="no such tensor" if target is None else f"{target.dtype} {list(target.shape)}",
                        found=f"{tensor.dtype} {list(tensor.shape)}",
                        fix="Build the model the checkpoint was made from",
                    )
                target.copy_(tensor)
    if left:
        raise CheckpointUnreadable(
            "the checkpoint lacks tensors of this model",
            where=prefix,
            expected=", ".join(sorted(left)[:5]),
            found="none",
        )


def _view(spec: TensorSpec, slot: memoryview) -> Any:
    torch = _torch()
    dtype = getattr(torch, _TYPES[spec.dtype])
    if spec.size_bytes == 0:
        return torch.empty(spec.shape, dtype=dtype)
    return torch.frombuffer(slot, dtype=dtype).reshape(spec.shape)


def _bytes_of(tensor: Any) -> bytes:
    torch = _torch()
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
