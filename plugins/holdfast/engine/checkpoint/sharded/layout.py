"""Where each piece of each tensor lies: the document ``holdfast.sharded/1``. docs/formats/checkpoint.md specifies it.

It stands where PyTorch's distributed checkpoint keeps a pickle named ``.metadata``. It is read without trust: a
tensor's pieces must cover it exactly, and every blob must be one of the manifest's.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import canonical
from holdfast.engine.checkpoint.tensors import ITEM_BYTES
from holdfast.engine.checkpoint.verify import LAYOUT_BLOB as LAYOUT_BLOB  # a checkpoint is sharded when it has one

FORMAT: Literal["holdfast.sharded/1"] = "holdfast.sharded/1"

Size = Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)]


class Chunk(BaseModel):
    """One piece of a tensor.

    ``offsets`` is where it begins in the tensor, ``name`` what it is called in its blob.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    offsets: tuple[Size, ...]
    shape: tuple[Size, ...]
    blob: str
    name: str


class ShardedTensor(BaseModel):
    """A tensor and its pieces; one without elements has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[Size, ...]
    chunks: tuple[Chunk, ...]


class ShardLayout(BaseModel):
    """The state of ``world`` ranks: tensors in pieces, and what each rank has alone, one blob per rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.sharded/1"] = FORMAT
    world: int = Field(ge=1, strict=True)
    tensors: dict[str, ShardedTensor]
    own: dict[str, tuple[str, ...]]

    @property
    def data(self) -> bytes:
        """RFC 8785 canonical JSON."""
        return canonical(self.model_dump(mode="json"))


def parse_layout(data: bytes, *, blobs: Mapping[str, int], where: str) -> ShardLayout:
    """Read and check a layout.

    Args:
        blobs: the manifest's blobs: name and size in bytes.

    Raises:
        CheckpointUnreadable: it is damaged or of another version, or what it says cannot be.
    """
    try:
        found = ShardLayout.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise _refused("is not readable", where, FORMAT, f"{at}: {first['msg']}" if at else first["msg"]) from None
    if found.data != data:
        raise _refused("is not in canonical form", where, "RFC 8785 bytes", "other bytes of the same meaning")
    for name, tensor in found.tensors.items():
        _check_tensor(tensor, blobs, f"{where}: {name!r}")
    _check_sizes(found, blobs, where)
    for name, of_ranks in found.own.items():
        if len(of_ranks) != found.world:
            raise _refused(
                "does not have a blob per rank", f"{where}: {name!r}", f"{found.world} names", str(len(of_ranks))
            )
        _check_blobs(of_ranks, blobs, f"{where}: {name!r}")
    return found


def _check_tensor(tensor: ShardedTensor, blobs: Collection[str], where: str) -> None:
    if tensor.dtype not in ITEM_BYTES:
        raise _refused("has an element type nobody reads", where, f"one of {', '.join(ITEM_BYTES)}", tensor.dtype)
    _check_blobs([chunk.blob for chunk in tensor.chunks], blobs, where)
    for chunk in tensor.chunks:
        ends = [begin + length for begin, length in zip(chunk.offsets, chunk.shape, strict=False)]
        fits = len(chunk.offsets) == len(chunk.shape) == len(tensor.shape)
        if not fits or any(end > size for end, size in zip(ends, tensor.shape, strict=True)):
            raise _refused(
                "has a piece beyond its tensor",
                where,
                f"within {list(tensor.shape)}",
                f"{list(chunk.shape)} at {list(chunk.offsets)}",
            )
        if math.prod(chunk.shape) == 0:
            raise _refused("has an empty piece", where, "pieces with elements", f"{list(chunk.shape)}")
    if (pair := _overlap(tensor.chunks)) is not None:
        one, other = pair
        raise _refused(
            "has pieces that overlap",
            where,
            "every element once",
            f"{list(one.shape)} at {list(one.offsets)} and {list(other.shape)} at {list(other.offsets)}",
        )
    covered, elements = sum(math.prod(chunk.shape) for chunk in tensor.chunks), math.prod(tensor.shape)
    if covered != elements:
        raise _refused("leaves a hole", where, f"{elements} elements for {list(tensor.shape)}", str(covered))


def _check_sizes(layout: ShardLayout, blobs: Mapping[str, int], where: str) -> None:
    """Nobody makes room for tensors that no blob could hold."""
    claimed: dict[str, int] = {}
    for tensor in layout.tensors.values():
        for chunk in tensor.chunks:
            size_bytes = math.prod(chunk.shape) * ITEM_BYTES[tensor.dtype]
            claimed[chunk.blob] = claimed.get(chunk.blob, 0) + size_bytes
    for name, size_bytes in sorted(claimed.items()):
        if size_bytes > blobs[name]:
            raise _refused(
                "claims more than its blob holds", f"{where}: {name!r}", f"at most {blobs[name]} bytes", str(size_bytes)
            )


def _check_blobs(named: Sequence[str], blobs: Collection[str], where: str) -> None:
    if missing := sorted(set(named) - set(blobs)):
        raise _refused("names a blob the manifest does not have", where, "names among its blobs", ", ".join(missing))


def _overlap(chunks: Sequence[Chunk]) -> tuple[Chunk, Chunk] | None:
    """Two pieces that share an element. A sweep along the dimension with the most different begins."""
    if len(chunks) < 2:
        return None
    dimensions = range(len(chunks[0].offsets))
    if not dimensions:
        return chunks[0], chunks[1]
    along = max(dimensions, key=lambda dimension: len({chunk.offsets[dimension] for chunk in chunks}))
    open_now: list[tuple[int, int]] = []
    for number in sorted(range(len(chunks)), key=lambda number: chunks[number].offsets[along]):
        begin = chunks[number].offsets[along]
        del open_now[: bisect_right(open_now, (begin, len(chunks)))]
        for _, other in open_now:
            if _share(chunks[number], chunks[other]):
                return chunks[other], chunks[number]
        insort(open_now, (begin + chunks[number].shape[along], number))
    return None


def _share(one: Chunk, other: Chunk) -> bool:
    return all(
        a < b + other_length and b < a + length
        for a, length, b, other_length in zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    )


def _refused(what: str, where: str, expected: str, found: str) -> CheckpointUnreadable:
    return CheckpointUnreadable(f"the layout of the shards {what}", where=where, expected=expected, found=found)
