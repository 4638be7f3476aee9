"""The background writer of a distributed run: one thread per rank, which save together through a group of their own."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.checkpoint.commit import commit_manifest
from holdfast.engine.checkpoint.compression import BlobEncoder
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointFailed, StepTaken
from holdfast.engine.checkpoint.format import CheckpointManifest, canonical, digest_of, parse_manifest
from holdfast.engine.checkpoint.sharded.errors import told_by_dcp
from holdfast.engine.checkpoint.sharded.ranks import Ranks, lost
from holdfast.engine.checkpoint.sharded.state import ShardedState
from holdfast.engine.checkpoint.sharded.storage import ShardWriter, Written
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.checkpoint.writer import Capture, CheckpointWriter
from holdfast.engine.objectstore.errors import BucketNotFound, NotSupported, PermissionRefused
from holdfast.errors import HoldfastError


@dataclass(frozen=True)
class ShardedCapture(Capture):
    """One rank's part of a state, waiting to become durable."""

    shards: ShardedState = field(kw_only=True)

    def by_digest(self, _manifest: CheckpointManifest, _encoder: BlobEncoder) -> Mapping[str, bytes]:
        """Nothing: no rank has all blobs, so the replicas read them from the store."""
        return {}


class ShardedSaver(CheckpointWriter):
    """Saves captures with the other ranks' savers.

    Every rank submits the same steps, and only while every saver is idle: then no rank waits for one that does
    something else. A save that failed for a reason that waiting cures is over at all ranks; ``wants_another`` asks for
    the next step to be saved instead.

    Args:
        ranks: a group for this thread alone.
    """

    def __init__(self, *arguments: Any, ranks: Ranks, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._ranks = ranks
        #: The step whose key another content has.
        self.taken_step: int | None = None

    def busy(self) -> bool:
        """Whether a save is under way or waits."""
        with self._condition:
            return self.failure is None and (self._pending is not None or self._in_flight is not None)

    def wait_idle(self, seconds: float) -> None:
        """Until no save is under way, or so long."""
        deadline = self._clock.monotonic() + seconds
        with self._condition:
            while self.failure is None and (self._pending is not None or self._in_flight is not None):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return
                self._condition.wait(min(left, 0.5))

    def _save(self, capture: Capture) -> None:
        assert isinstance(capture, ShardedCapture)
        began = self._clock.monotonic()
        try:
            manifest = self._save_together(capture)
        except StepTaken as error:
            self._give_up(error)
            self.taken_step = capture.step
        except (CheckpointError, PermissionRefused, BucketNotFound, NotSupported):
            raise
        except HoldfastError as error:
            self._give_up(error)
        else:
            self._done(manifest, capture, self._clock.monotonic() - began)

    def _give_up(self, error: HoldfastError) -> None:
        self._intact.clear()  # the store may have lost what it had
        with self._condition:
            self.wants_another, self._error = True, str(error)

    def _save_together(self, capture: ShardedCapture) -> CheckpointManifest:
        """DCP plans, every rank writes, rank 0 commits; the manifest at every rank."""
        committed: list[CheckpointManifest] = []
        writer = ShardWriter(
            self._store,
            self._origin.run,
            rank=self._ranks.rank,
            state=capture.shards,
            intact=self._intact,
            commit=lambda written: committed.append(self._commit(capture, written)),
        )
        dcp = importlib.import_module("torch.distributed.checkpoint")
        planner = importlib.import_module("torch.distributed.checkpoint.default_planner").DefaultSavePlanner
        alone = self._ranks.group is None
        try:
            with warnings.catch_warnings():
                if alone:
                    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.save(
                    dict(capture.shards.tensors),
                    storage_writer=writer,
                    planner=planner(flatten_state_dict=False),
                    process_group=self._ranks.group,
                    no_dist=alone,
                )
        except dcp.CheckpointException as error:
            raise told_by_dcp(error, CheckpointFailed, "the ranks could not save") from None
        except RuntimeError as error:
            raise lost(error) from error
        text = self._ranks.from_leader(lambda: committed[0].data.decode())
        return parse_manifest(text.encode(), where="rank 0")

    def _commit(self, capture: ShardedCapture, written: Written) -> CheckpointManifest:
        state = TrainingState({}, capture.state.values, written.model, fingerprint_of(written.fingerprints))
        manifest = self._manifest_of(capture, state, dict(written.blobs))
        return commit_manifest(self._store, manifest, guard=self._guard)


def fingerprint_of(of_ranks: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One fingerprint of all ranks: rank 0's, their number, and a digest of all where they are not alike."""
    facts = {**of_ranks[0], "world": str(len(of_ranks))}
    if any(dict(one) != dict(of_ranks[0]) for one in of_ranks):
        facts["ranks_differ"] = digest_of(canonical([dict(one) for one in of_ranks]))
    return facts
