"""PyTorch's distributed checkpoint (DCP) on Holdfast's store: its two storage interfaces, without its pickle.

DCP plans who writes which piece and who needs which one back; resharding is its work. What it writes here are blobs
of tensors under their digests, what it keeps of its metadata is a `ShardLayout`. An item that is no tensor would be a
pickle: it is refused both ways.

The classes are registered with DCP's abstract ones rather than derived from them, so that importing this module does
not import PyTorch.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.checkpoint.adapters.torch_tensors import blob_of, dtype_of, live_tensor, tensors_of
from holdfast.engine.checkpoint.commit import ensure_blob
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointFailed, CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, digest_of
from holdfast.engine.checkpoint.live import grouped
from holdfast.engine.checkpoint.restore import take
from holdfast.engine.checkpoint.sharded.layout import LAYOUT_BLOB, Chunk, ShardedTensor, ShardLayout
from holdfast.engine.checkpoint.sharded.state import REST_BLOB, ShardedState
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError

#: The result in which a rank tells what is not a tensor of the plan.
_REPORT = ""


@dataclass(frozen=True, slots=True)
class RankReport:
    """What a rank wrote, and what it must have in common with the others."""

    rank: int
    blobs: Mapping[str, BlobRef]
    own: Mapping[str, str]
    rest: Mapping[str, str]
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Written:
    """What all ranks wrote: ready to be committed."""

    blobs: Mapping[str, BlobRef]
    model: tuple[str, ...]
    fingerprints: tuple[Mapping[str, str], ...]


class ShardWriter:
    """DCP's ``StorageWriter`` for one checkpoint, at one rank.

    Args:
        state: this rank's part; its tensors come through DCP.
        intact: digests that are known to be in the store; grows by what is written.
        commit: called at the coordinator once every rank has written everything.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        rank: int,
        state: ShardedState,
        intact: set[str],
        commit: Callable[[Written], None],
    ) -> None:
        _register()
        self._store = store
        self._run = run
        self._rank = rank
        self._state = state
        self._intact = intact
        self._commit = commit

    # -- DCP's interface ----------------------------------------------------------------------------------------

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A writer serves one checkpoint, whose name follows from the run."""

    def set_up_storage_writer(self, is_coordinator: bool) -> None: ...

    def prepare_local_plan(self, plan: Any) -> Any:
        """Raises CheckpointError: something in the state is no tensor."""
        for item in plan.items:
            if item.tensor_data is None:
                raise CheckpointError(
                    "a part of the sharded state is no tensor",
                    where=item.index.fqn,
                    expected="tensors; DCP would pickle anything else",
                    found="another object",
                    fix="Give it as `rest`, which is JSON",
                )
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        return plans

    def write_data(self, plan: Any, planner: Any) -> Any:
        """This rank's blobs, each create-only under its digest; one in memory at a time."""
        try:
            results = self._write(plan, planner)
        except HoldfastError:
            raise
        except Exception as error:  # it goes to the other ranks, which may not know its class
            raise CheckpointFailed(
                "a rank could not write its part", where=self._run, found=f"{type(error).__name__}: {error}"
            ) from None
        future = importlib.import_module("torch.futures").Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Any, results: list[list[Any]]) -> None:
        """Coordinator: the layout, the rest, then the commit.

        Raises:
            CheckpointError: the ranks do not agree on what they have in common.
            Fenced, WritesHeld, StepTaken, ObjectStoreError: see `commit_manifest`.
        """
        reports = sorted(
            (one.storage_data for of_rank in results for one in of_rank if one.index.fqn == _REPORT),
            key=lambda report: report.rank,
        )
        _check_alike(reports)
        blobs = {name: reference for report in reports for name, reference in report.blobs.items()}
        layout = ShardLayout(
            world=len(reports),
            tensors=_tensors(metadata, results),
            own={name: tuple(report.own[name] for report in reports) for name in reports[0].own},
        )
        blobs[LAYOUT_BLOB] = self._put(layout.data)
        blobs[REST_BLOB] = self._put(_object_of(self._state.rest))
        model = tuple(sorted(name for name in blobs if name.startswith("model")))
        self._commit(Written(blobs, model, tuple(report.fingerprint for report in reports)))

    @classmethod
    def validate_checkpoint_id(cls, _checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # never chosen by DCP itself

    def storage_meta(self) -> None:
        return None

    # -- how ----------------------------------------------------------------------------------------------------

    def _write(self, plan: Any, planner: Any) -> list[Any]:
        result_of, index_of = _import("storage").WriteResult, _import("metadata").MetadataIndex
        blobs: dict[str, BlobRef] = {}
        results = []
        for name, tensors, items in self._grouped(plan, planner):
            blobs[name] = self._put(blob_of(tensors))
            results += [result_of(item.index, 0, (name, tensor)) for tensor, item in items.items()]
        own = {}
        for name, data in self._state.own.items():
            own[name] = of_rank(name, self._rank)
            blobs[own[name]] = self._put(data)
        rest = {name: digest_of(data) for name, data in self._state.rest.items()}
        report = RankReport(self._rank, blobs, own, rest, dict(self._state.fingerprint))
        return [*results, result_of(index_of(_REPORT), 0, report)]

    def _grouped(self, plan: Any, planner: Any) -> Iterable[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Blobs of at most 64 MiB: name, its tensors, the plan's items by the name of their tensor."""
        by_group: dict[str, list[Any]] = {}
        items = {}
        for item in plan.items:
            if math.prod(item.tensor_data.chunk.sizes) == 0:
                continue  # a rank that has no part of this tensor
            tensor = planner.resolve_data(item).detach()
            name = f"{item.index.fqn}@{','.join(str(offset) for offset in item.tensor_data.chunk.offsets)}"
            items[name] = item
            group = self._state.groups[item.index.fqn]
            by_group.setdefault(group, []).append(live_tensor(name, tensor))
        for group, tensors in by_group.items():
            for cut in grouped(f"{group}-r{self._rank:05d}", tensors, model=False):
                sources = {one.spec.name: one.source for one in cut.tensors}
                yield cut.name, sources, {name: items[name] for name in sources}

    def _put(self, data: bytes) -> BlobRef:
        reference = BlobRef(digest=digest_of(data), size_bytes=len(data))
        if reference.digest not in self._intact:
            ensure_blob(self._store, self._run, reference.digest, data)
            self._intact.add(reference.digest)
        return reference


class ShardReader:
    """DCP's ``StorageReader`` of one checkpoint; serves any number of ranks, each for itself.

    Args:
        layout: where the pieces lie.
        blobs: the checkpoint's blobs by name, each checked against its digest when it is read.
    """

    def __init__(self, layout: ShardLayout, blobs: Mapping[str, bytes]) -> None:
        _register()
        self._layout = layout
        self._blobs = blobs

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    def read_metadata(self) -> Any:
        """The layout in DCP's words."""
        torch, words = importlib.import_module("torch"), _import("metadata")
        tensors, places = {}, {}
        for name, tensor in self._layout.tensors.items():
            tensors[name] = words.TensorStorageMetadata(
                words.TensorProperties(dtype=dtype_of(tensor.dtype)),
                torch.Size(tensor.shape),
                [
                    words.ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape))
                    for chunk in tensor.chunks
                ],
            )
            for chunk in tensor.chunks:
                places[words.MetadataIndex(name, chunk.offsets)] = chunk
        return words.Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Any, _is_coordinator: bool) -> None:
        self._places = metadata.storage_data

    def prepare_local_plan(self, plan: Any) -> Any:
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        return plans

    def read_data(self, plan: Any, planner: Any) -> Any:
        """Copy what the plan wants, one blob in memory at a time.

        Raises:
            CheckpointUnreadable: a blob is missing, damaged, or does not hold what the layout says.
        """
        wanted: dict[str, list[tuple[Chunk, Any]]] = {}
        for item in plan.items:
            chunk = self._places[item.storage_index]
            wanted.setdefault(chunk.blob, []).append((chunk, item))
        for blob in sorted(wanted):
            tensors = tensors_of(take(self._blobs, blob), where=blob)
            for chunk, item in wanted[blob]:
                piece = checked_piece(self._layout.tensors[item.storage_index.fqn], chunk, tensors)
                for dimension, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                    piece = piece.narrow(dimension, begin, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(piece)
                planner.commit_tensor(item, target)
        future = importlib.import_module("torch.futures").Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, _checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


def checked_piece(tensor: ShardedTensor, chunk: Chunk, tensors: Mapping[str, Any]) -> Any:
    """The piece of a blob's tensors that a chunk names. Raises CheckpointUnreadable: it is another one."""
    piece = tensors.get(chunk.name)
    if piece is None or piece.dtype != dtype_of(tensor.dtype) or tuple(piece.shape) != chunk.shape:
        raise CheckpointUnreadable(
            "a blob does not hold what the layout of the shards says",
            where=f"{chunk.blob}: {chunk.name!r}",
            expected=f"{tensor.dtype} {list(chunk.shape)}",
            found="nothing" if piece is None else f"{piece.dtype} {list(piece.shape)}",
        )
    return piece


def of_rank(name: str, rank: int) -> str:
    """``generators.safetensors`` of rank 3: ``generators-r00003.safetensors``."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}-r{rank:05d}{dot}{ending}"


def _object_of(rest: Mapping[str, bytes]) -> bytes:
    """One JSON object of values that are JSON already."""
    members = (json.dumps(name).encode() + b":" + data for name, data in sorted(rest.items()))
    return b"{" + b",".join(members) + b"}"


def _check_alike(reports: list[RankReport]) -> None:
    first = reports[0]
    for report in reports:
        different = [
            name for name in sorted({*first.rest, *report.rest}) if first.rest.get(name) != report.rest.get(name)
        ]
        if different or first.own.keys() != report.own.keys():
            raise CheckpointError(
                "the ranks do not have the same state",
                where=f"rank {report.rank}",
                expected="what rank 0 has",
                found=f"another {', '.join(different) or 'list of own blobs'}",
                fix="Keep what a rank has alone out of `extra`: a position counts the samples of all ranks together",
            )


def _tensors(metadata: Any, results: list[list[Any]]) -> dict[str, ShardedTensor]:
    places = {one.index: one.storage_data for of_rank in results for one in of_rank if one.index.fqn != _REPORT}
    index_of = _import("metadata").MetadataIndex
    found = {}
    for name, tensor in metadata.state_dict_metadata.items():
        chunks = []
        for chunk in tensor.chunks:
            if math.prod(chunk.sizes) == 0:
                continue
            blob, inside = places[index_of(name, chunk.offsets)]
            chunks.append(Chunk(offsets=tuple(chunk.offsets), shape=tuple(chunk.sizes), blob=blob, name=inside))
        found[name] = ShardedTensor(
            dtype=_dtype_name(tensor.properties.dtype), shape=tuple(tensor.size), chunks=tuple(chunks)
        )
    return found


def _dtype_name(dtype: Any) -> str:
    empty = importlib.import_module("torch").empty(0, dtype=dtype)
    return live_tensor("", empty).spec.dtype


def _register() -> None:
    storage = _import("storage")
    storage.StorageWriter.register(ShardWriter)
    storage.StorageReader.register(ShardReader)


def _import(name: str) -> Any:
    # By name: the type checker then says the same with and without PyTorch installed.
    return importlib.import_module(f"torch.distributed.checkpoint.{name}")
