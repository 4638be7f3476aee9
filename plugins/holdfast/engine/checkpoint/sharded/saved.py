"""A sharded checkpoint that was saved, read by any number of ranks, or by a script without any."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from holdfast.engine.checkpoint.adapters.torch_tensors import dtype_of, tensors_of
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.restore import StoredBlobs, take
from holdfast.engine.checkpoint.sharded.errors import told_by_dcp
from holdfast.engine.checkpoint.sharded.layout import LAYOUT_BLOB, Chunk, ShardLayout, parse_layout
from holdfast.engine.checkpoint.sharded.state import REST_BLOB
from holdfast.engine.checkpoint.sharded.storage import ShardReader, checked_piece
from holdfast.engine.objectstore.interface import ObjectStore


class SavedShards:
    """Reads a checkpoint that `ShardedCheckpointer` saved. Each blob is checked against its digest when it is read.

    Raises:
        CheckpointUnreadable: it is not sharded, or its layout says what cannot be.
    """

    def __init__(self, store: ObjectStore, manifest: CheckpointManifest) -> None:
        self.manifest = manifest
        self._blobs = StoredBlobs(store, manifest)
        where = f"{manifest.key}: {LAYOUT_BLOB}"
        if LAYOUT_BLOB not in manifest.blobs or REST_BLOB not in manifest.blobs:
            raise CheckpointUnreadable(
                "this checkpoint is not of a distributed run",
                where=where,
                expected=f"the blobs {LAYOUT_BLOB} and {REST_BLOB}",
                found=", ".join(sorted(manifest.blobs)[:5]),
                fix="Load it with the adapter that saved it",
            )
        self.layout: ShardLayout = parse_layout(
            self._blobs[LAYOUT_BLOB],
            blobs={name: reference.size_bytes for name, reference in manifest.blobs.items()},
            where=where,
        )

    @property
    def world(self) -> int:
        """How many ranks saved it."""
        return self.layout.world

    @cached_property
    def rest(self) -> dict[str, Any]:
        """What every rank had the same."""
        try:
            rest = json.loads(self._blobs[REST_BLOB])
        except ValueError as error:
            raise _unreadable(REST_BLOB, "JSON", str(error)) from None
        if not isinstance(rest, dict):
            raise _unreadable(REST_BLOB, "an object", type(rest).__name__)
        return rest

    def own(self, name: str, rank: int) -> bytes:
        """What this rank alone had under this name."""
        if name not in self.layout.own:
            raise _unreadable(LAYOUT_BLOB, f"{name!r} of every rank", ", ".join(sorted(self.layout.own)))
        return self._blobs[self.layout.own[name][rank]]

    def alike(self, name: str) -> bool:
        """Whether all ranks had the same under this name."""
        return len({self.manifest.blobs[blob].digest for blob in self.layout.own.get(name, ())}) == 1

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Fill these tensors, DTensors in whatever sharding, in place. No collective is called.

        Raises:
            CheckpointUnreadable: names, shapes or types differ, or a blob is damaged; what was filled stays.
        """
        self._check_names(tensors)
        dcp, planner = importlib.import_module("torch.distributed.checkpoint"), self._planner()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.load(
                    dict(tensors), storage_reader=ShardReader(self.layout, self._blobs), planner=planner, no_dist=True
                )
        except dcp.CheckpointException as error:
            raise told_by_dcp(error, CheckpointUnreadable, "the checkpoint does not load") from error

    def whole(self, prefix: str = "") -> dict[str, Any]:
        """Whole tensors by name, put together in this process from every rank's pieces.

        Args:
            prefix: only those whose name begins so; it is cut off.

        Raises:
            CheckpointUnreadable: a blob is damaged, or does not hold what the layout says.
        """
        torch = importlib.import_module("torch")
        wanted = {name: tensor for name, tensor in self.layout.tensors.items() if name.startswith(prefix)}
        found = {name: torch.empty(tensor.shape, dtype=dtype_of(tensor.dtype)) for name, tensor in wanted.items()}
        by_blob: dict[str, list[tuple[str, Chunk]]] = {}
        for name, tensor in wanted.items():
            for chunk in tensor.chunks:
                by_blob.setdefault(chunk.blob, []).append((name, chunk))
        for blob in sorted(by_blob):
            tensors = tensors_of(take(self._blobs, blob), where=blob)
            for name, chunk in by_blob[blob]:
                target = found[name]
                for dimension, (begin, length) in enumerate(zip(chunk.offsets, chunk.shape, strict=True)):
                    target = target.narrow(dimension, begin, length)
                target.copy_(checked_piece(wanted[name], chunk, tensors))
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}

    def _planner(self) -> Any:
        planner = importlib.import_module("torch.distributed.checkpoint.default_planner").DefaultLoadPlanner
        return planner(flatten_state_dict=False, allow_partial_load=False)

    def _check_names(self, tensors: Mapping[str, Any]) -> None:
        """DCP would leave out what it is not asked for, and convert types without a word."""
        there = self.layout.tensors
        for name in sorted({*tensors, *there}):
            wanted = _described(tensors[name].dtype, tensors[name].shape) if name in tensors else "no such tensor"
            saved = _described(dtype_of(there[name].dtype), there[name].shape) if name in there else "none"
            if wanted != saved:
                raise CheckpointUnreadable(
                    "the checkpoint is not of this model and optimizer",
                    where=f"{self.manifest.key}: {name}",
                    expected=wanted,
                    found=saved,
                    fix="Build the model and the optimizer the checkpoint was made from",
                )


def _described(dtype: Any, shape: Any) -> str:
    return f"{dtype} {list(shape)}"


def _unreadable(where: str, expected: str, found: str) -> CheckpointUnreadable:
    return CheckpointUnreadable("a part of the checkpoint is not readable", where=where, expected=expected, found=found)
