"""The checkpointer of a distributed run: every rank calls it, rank 0 decides and commits.

::

    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
    checkpointer = ShardedCheckpointer.from_environment()
    resumed = checkpointer.resume(adapter)
    with checkpointer:
        for step in range(resumed.step + 1 if resumed else 1, total + 1):
            train_one_step(step)
            checkpointer.step(step, adapter, loss=loss)
        last = checkpointer.finish(adapter)

Only rank 0 asks the guard, keeps the heartbeat, replicates and writes manifests. At each step the ranks exchange nine
numbers, so that what follows (save, stop, end with an error) is the same at all of them and none waits in a collective
that another never enters.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.engine.checkpoint.capturing import SaveMode
from holdfast.engine.checkpoint.checkpointer import STOP_SAVE_SECONDS, Checkpointer
from holdfast.engine.checkpoint.commit import require_permission
from holdfast.engine.checkpoint.errors import CheckpointError, StopRequested
from holdfast.engine.checkpoint.guard import Permission
from holdfast.engine.checkpoint.outcome import Finished, Resumed
from holdfast.engine.checkpoint.restore import load_state
from holdfast.engine.checkpoint.sharded.election import elect_together
from holdfast.engine.checkpoint.sharded.ranks import Ranks
from holdfast.engine.checkpoint.sharded.saved import SavedShards
from holdfast.engine.checkpoint.sharded.saver import ShardedCapture, ShardedSaver, fingerprint_of
from holdfast.engine.checkpoint.sharded.state import ShardedAdapter, ShardedState
from holdfast.engine.checkpoint.sharded.votes import Votes, ask
from holdfast.engine.checkpoint.state import TrainingState, finite
from holdfast.engine.checkpoint.writer import Origin
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError


class ShardedCheckpointer(Checkpointer):
    """Checkpoints one run whose state is spread over ranks. Made, and every method called, at every rank alike.

    Modes: ``copy`` (default) copies this rank's part and goes on, while threads write; a checkpoint that is due while
    one is being written is taken at the first step after it. ``blocking`` waits until it is durable. There is no
    ``overlap``.

    Args:
        ranks: of this job, from `Ranks.join`.
        save_timeout_seconds: how long one rank's writing may take longer than another's.
        settings: as `Checkpointer` takes them. At ranks other than 0 the guard, the heartbeat and the replicas are
            not used.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        epoch: int,
        site: str,
        ranks: Ranks,
        save_timeout_seconds: float = 1800.0,
        **settings: Any,
    ) -> None:
        for name in ("memory_bytes", "self_test"):
            if settings.get(name):
                raise _unsupported(name, "one copy of this rank's part, always")
        if not ranks.leads:
            settings |= {"guard": None, "heartbeat": None, "replicas": None, "retention": None, "resume_from": None}
        super().__init__(store, run, epoch=epoch, site=site, **settings)
        if self.mode is SaveMode.OVERLAP:
            raise _unsupported("mode", f"{SaveMode.COPY} or {SaveMode.BLOCKING}")
        if self._encoder.compression.is_on:
            raise _unsupported("compression", "none")
        self.ranks = ranks
        self._save_timeout_seconds = save_timeout_seconds
        self._saver: ShardedSaver | None = None
        self._stager: Any = None
        self._pause = threading.Event()
        self._compared = False
        #: A checkpoint was due while another was being written.
        self._owed = False

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        mode: SaveMode | str = SaveMode.COPY,
        self_test: bool = False,
        ranks: Ranks | None = None,
    ) -> ShardedCheckpointer:
        """The checkpointer of one rank of a job that a `TrainingBackend` started; ``torchrun`` is its command.

        Args:
            self_test: refused, see the class.
            ranks: by default those of the default process group.

        Raises:
            EnvironmentIncomplete, ConfigError: see `Checkpointer.from_environment`.
        """
        # The composition root stands above this room; looked up by name, so the arrow still points down.
        training = importlib.import_module("holdfast.engine.training").Training
        of_job = ranks if ranks is not None else Ranks.join()
        named = os.environ if environ is None else environ
        checkpointer = training.from_environment(named, mode=mode, ranks=of_job, self_test=self_test).checkpointer
        assert isinstance(checkpointer, cls)
        return checkpointer

    # -- resume -------------------------------------------------------------------------------------------------

    def resume(self, adapter: Any = None, *, fingerprint: Mapping[str, str] | None = None) -> Resumed | None:
        """As `Checkpointer.resume`, with a `ShardedAdapter`, at every rank.

        As many ranks as saved it go on exactly. Another number of ranks gets the same tensors in other pieces, and
        the outcome is "numerically equivalent".

        Raises:
            EpochUnknownHere, Fenced, StoreUnavailable: at every rank.
            CheckpointUnreadable: the checkpoint is not of this model, or its layout cannot be; at every rank.
            RankLost: a rank is gone.
        """
        if adapter is not None:
            _check_adapter(adapter)
        self.ranks.from_leader(self._refuse_if_over)
        extra = fingerprint if fingerprint is not None else adapter.fingerprint() if adapter is not None else {}
        ours = fingerprint_of(self.ranks.exchange({**self.fingerprint, **extra}))
        election = elect_together(self.ranks, self.store, self.run, epoch=self.epoch, site=self.site, fingerprint=ours)
        self._note_resume(election)
        if (manifest := election.manifest) is None:
            return None
        if adapter is not None:
            self.ranks.together(lambda: self._load(adapter, SavedShards(self.store, manifest)))
        self._parent = manifest
        self._last_step = self._saved_step = election.step
        state = load_state(self.store, manifest)
        return Resumed(election.step, state, manifest, election.resume, election.passed_over)

    def _refuse_if_over(self) -> None:
        if self.guard.permission() is Permission.FENCED:
            require_permission(self.guard, where=self.run, epoch=self.epoch)

    def _load(self, adapter: ShardedAdapter, saved: SavedShards) -> None:
        adapter.load_shards(saved, rank=self.ranks.rank, world=self.ranks.world)

    # -- steps --------------------------------------------------------------------------------------------------

    def step(
        self, step: int, state: Any, *, loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """As `Checkpointer.step`, with a `ShardedAdapter`, at every rank and with the same step.

        The loss and the metrics that are kept are rank 0's.

        Raises, at every rank alike:
            Fenced, StopRequested: see there. SIGTERM at any rank stops all of them.
            CheckpointFailed: a rank's store refuses; no manifest was written.
            RankLost: a rank is gone, or did not come in time. Not every rank learns it at the same moment.
        """
        saver, adapter = self._running(), _check_adapter(state)
        self._stepped(step)
        self._metrics = {step: finite({"loss": loss, **(metrics or {})})}
        votes = self._ask(step, wanted=self._is_wanted(step, saver))
        taken = False
        if votes.stop:
            self._leave(step, adapter)
        if votes.wanted:
            self._owed = votes.busy
            if taken := not votes.busy:
                self._take(step, adapter)
                if self.mode is SaveMode.BLOCKING:
                    self._hold(step, adapter, seconds=None)
                self._count_stall()
        self._tell(step, loss)
        return taken

    def finish(self, state: Any, *, save_seconds: float = 120.0, replica_seconds: float = 10.0) -> Finished:
        """As `Checkpointer.finish`, at every rank.

        Raises, at every rank alike:
            Fenced, CheckpointFailed, CheckpointError, RankLost.
        """
        saver, adapter = self._running(), _check_adapter(state)
        self._heartbeat.write(state="finishing", **self._facts())
        if not self._hold(self._last_step, adapter, seconds=save_seconds):
            found = self.ranks.from_leader(lambda: saver.status().error)
            raise CheckpointError(
                "the last checkpoint is not durable",
                where=self.run,
                expected=f"step {self._last_step} within {save_seconds:g} s",
                found=found or "nothing",
                fix="Submit the job again when the store answers; it goes on from the newest",
            )
        manifest = saver.last
        assert manifest is not None
        replicated = self.ranks.from_leader(lambda: self._wait_for_replicas(manifest.step, replica_seconds))
        self._heartbeat.write(state="finishing", model_digest=manifest.model_digest, **self._facts())
        return Finished(manifest, replicated)

    def require_permission(self, what: str) -> None:
        """As `Checkpointer.require_permission`; rank 0 alone asks and publishes.

        Raises:
            CheckpointError: called at another rank.
        """
        if not self.ranks.leads:
            raise CheckpointError(
                "another rank than 0 is about to publish",
                where=what,
                expected="rank 0",
                found=f"rank {self.ranks.rank}",
                fix="Publish where `ranks.leads`",
            )
        super().require_permission(what)

    # -- how ----------------------------------------------------------------------------------------------------

    def _new_writer(self, origin: Origin) -> ShardedSaver:
        self._saver = ShardedSaver(
            self.store,
            origin,
            guard=self.guard,
            clock=self._clock,
            parent=self._parent,
            committed=self._committed,
            retry_seconds=self._retry_seconds,
            ranks=self.ranks if self.ranks.group is None else Ranks.join(timeout_seconds=self._save_timeout_seconds),
        )
        return self._saver

    def _running(self) -> ShardedSaver:
        if self._saver is None:
            self._ready()  # says how to use it
        assert self._saver is not None
        return self._saver

    def _is_wanted(self, step: int, saver: ShardedSaver) -> bool:
        if not self.ranks.leads:
            return False
        return self._owed or saver.wants_another or self._is_due(step) or self._heartbeat.checkpoint_requested()

    def _ask(self, step: int, *, wanted: bool = False, late: bool = False) -> Votes:
        """What all ranks do next. Raises the same error at every rank when one has one."""
        saver, problem = self._running(), self._problem()
        votes = ask(
            self.ranks,
            step=step,
            stop=self._stop.is_set(),
            wanted=wanted,
            busy=saver.busy(),
            behind=saver.last is None or saver.last.step < step,
            taken=saver.taken_step == step,
            late=late,
            problem=problem is not None,
        )
        if votes.problem:
            self.ranks.together(lambda: _raise(problem))
        return votes

    def _problem(self) -> HoldfastError | None:
        try:
            self._ready()
        except HoldfastError as error:
            return error
        return None

    def _take(self, step: int, adapter: ShardedAdapter) -> None:
        """Copy this rank's part and have it written. The ranks begin together, or none does."""
        saver, began = self._running(), self._clock.monotonic()
        shards = self._part(adapter)
        saver.wants_another = False
        capture = ShardedCapture(step, TrainingState({}), self._clock.now(), shards=shards)
        saver.submit(capture.with_metrics(self._metrics.get(step, {})))
        self._saved_step, self._saved_at = step, self._clock.monotonic()
        if self._live is not None:
            self._live.stall_seconds = self._saved_at - began

    def _part(self, adapter: ShardedAdapter) -> ShardedState:
        """This rank's part, copied unless training waits for the save anyway. An error of one rank is one of all."""
        parts: list[ShardedState] = []

        def take() -> dict[str, str]:
            found = adapter.shards()
            tensors = found.tensors if self.mode is SaveMode.BLOCKING else self._copied(found.tensors)
            parts.append(replace(found, tensors=tensors, fingerprint={**self.fingerprint, **found.fingerprint}))
            return {} if self._compared else {name: digest() for name, digest in adapter.replicas().items()}

        of_ranks = self.ranks.together(take)
        self._compared = True
        for rank, digests in enumerate(of_ranks):
            if different := sorted(name for name in digests if digests[name] != of_ranks[0].get(name)):
                raise CheckpointError(
                    "a tensor that is not sharded differs between the ranks; one copy of it would be saved",
                    where=f"rank {rank}: {different[0]}",
                    expected="what rank 0 has",
                    found=f"other values in {len(different)} tensors",
                    fix="Make it a DTensor, or see that the ranks keep it equal",
                )
        return parts[0]

    def _copied(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Into memory that is kept for the next time."""
        if self._stager is None:
            staging = importlib.import_module("torch.distributed.checkpoint.staging")
            self._stager = staging.DefaultStager(staging.StagingOptions(False, False, False, False))
        copied: Mapping[str, Any] = self._stager.stage(dict(tensors))
        return copied

    def _hold(self, step: int, adapter: ShardedAdapter, *, seconds: float | None) -> bool:
        """Save this step until it is durable at every rank; False: not in time, or its key is taken.

        Args:
            seconds: None: as long as it takes, unless asked to leave, which raises StopRequested.
        """
        saver = self._running()
        deadline = None if seconds is None else self._clock.monotonic() + seconds
        while True:
            left = 3600.0 if deadline is None else max(0.0, deadline - self._clock.monotonic())
            saver.wait_idle(min(left, 5.0))
            votes = self._ask(step, late=deadline is not None and self._clock.monotonic() >= deadline)
            if not votes.behind:
                return True
            if votes.taken or votes.late:
                return False
            if votes.stop and deadline is None:
                # Not back to training: a save under way reads the tensors where they are.
                self._leave(step, adapter)
            if not votes.busy:
                if saver.wants_another:  # the last try failed
                    self._pause.wait(self._retry_seconds)
                self._take(step, adapter)

    def _leave(self, step: int, adapter: ShardedAdapter) -> None:
        durable = self._hold(step, adapter, seconds=STOP_SAVE_SECONDS)
        raise StopRequested(
            "asked to leave",
            where=self.run,
            found=f"step {step} is saved"
            if durable
            else f"step {step} could not be saved in time; step {self._durable_step()} is",
        )

    def _wait_for_replicas(self, step: int, seconds: float) -> dict[str, bool]:
        return self._after.wait(step, seconds)


def _raise(problem: HoldfastError | None) -> None:
    if problem is not None:
        raise problem


def _check_adapter(adapter: Any) -> ShardedAdapter:
    if not isinstance(adapter, ShardedAdapter):
        raise CheckpointError(
            "a distributed run needs an adapter that knows its shards",
            where=type(adapter).__name__,
            expected="a ShardedAdapter",
            found="another adapter",
            fix="Use ShardedTorchAdapter",
        )
    return adapter


def _unsupported(name: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "a distributed run does not take this setting", where=name, expected=expected, found="another"
    )
