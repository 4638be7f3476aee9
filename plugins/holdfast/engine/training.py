"""The composition root of a training process: what its environment names, opened and ready.

::

    training = Training.from_environment()
    table = training.dataset()
    with training.checkpointer as checkpointer: ...
    training.publish_model({"model.ubj": …, "features.json": …}, finished)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.engine.authority.lease import Lease
from holdfast.engine.checkpoint.capturing import SaveMode
from holdfast.engine.checkpoint.checkpointer import Checkpointer
from holdfast.engine.checkpoint.compression import Compression
from holdfast.engine.checkpoint.environment import TrainingEnvironment
from holdfast.engine.checkpoint.errors import CheckpointError
from holdfast.engine.checkpoint.fingerprint import environment_fingerprint
from holdfast.engine.checkpoint.guard import AlwaysGranted, Permission, WriteGuard
from holdfast.engine.checkpoint.heartbeat import HeartbeatObject
from holdfast.engine.checkpoint.housekeeping import Retention
from holdfast.engine.checkpoint.interval import FailureRate
from holdfast.engine.checkpoint.outcome import Finished
from holdfast.engine.checkpoint.pacing import IntervalPolicy
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.checkpoint.sharded import Ranks, ShardedCheckpointer
from holdfast.engine.compute.attempts import Attempts
from holdfast.engine.config import Cloud, Topology, TrainingJob
from holdfast.engine.objectstore import ObjectStore, local_store
from holdfast.engine.policy import COPY_CHECKPOINTS, TRAIN, ResidencyRefused, check_hop, residency_for
from holdfast.engine.replication import replicate
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, find_record, latest, open_table, put_snapshot
from holdfast.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1024 * 1024
#: A heartbeat in a bucket is a request each time.
_OBJECT_HEARTBEAT_SECONDS = 5.0


class LeaseGuard:
    """A `WriteGuard` from the site's lease, renewed in the background four times within T_fence.

    A lease that ran out comes back with a *fresh* read of a majority that still names the epoch and the site: any
    promotion commits first and waits T_fence, so such a read proves that none has happened. Until then the process
    holds its writes back (`Permission.HELD`). Only a newer epoch, or another active site, ends it for good.
    """

    def __init__(self, lease: Lease, epoch: int, *, renew_seconds: float) -> None:
        self._lease = lease
        self._epoch = epoch
        self._renew_seconds = renew_seconds
        self._closed = threading.Event()
        self._lease.renew()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def permission(self) -> Permission:
        seen = self._lease.status()
        if seen.epoch is not None and seen.epoch > self._epoch:
            return Permission.FENCED
        if seen.role in ("standby", "witness") and seen.epoch == self._epoch:
            return Permission.FENCED
        return Permission.GRANTED if seen.role == "active" and seen.epoch == self._epoch else Permission.HELD

    def close(self) -> None:
        self._closed.set()

    def _renew(self) -> None:
        while not self._closed.wait(self._renew_seconds):
            self._lease.renew()


@dataclass(frozen=True)
class Training:
    """One training process: its job, its checkpointer, its data.

    Args:
        store: where everything is written: the site's bucket, or the scratch folder of a reference run.
        data_store: where the dataset is read: always the site's bucket.
        standbys: the other sites that get its checkpoints and model.
        refused: the sites that would, had the residency of the data not forbidden it, and why.
    """

    environment: TrainingEnvironment
    runtime: Runtime
    job: TrainingJob
    steps: int
    step_seconds: float
    store: ObjectStore
    data_store: ObjectStore
    checkpointer: Checkpointer
    data_record: CommitRecord
    standbys: tuple[str, ...] = field(default=())
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        mode: SaveMode | str = SaveMode.COPY,
        fingerprint: Mapping[str, str] | None = None,
        ranks: Ranks | None = None,
        self_test: bool = False,
    ) -> Training:
        """Open everything the environment contract names.

        Args:
            mode: how long training waits for a save; see `Checkpointer`.
            fingerprint: what the numbers depend on beyond the environment, e.g. the precision. A run that goes on with
                another value is *numerically equivalent*, and the difference is named.
            ranks: of a distributed job, whose checkpointer is then a `ShardedCheckpointer`; every rank calls this.
            self_test: find out whether the mode fits the training loop; the environment can ask for it too.

        Raises:
            EnvironmentIncomplete, ConfigError, UnknownName: something is missing or wrong; nothing was started.
            ResidencyRefused: the data may not lie at this site; nothing was read.
            StoreUnavailable: the site's own bucket does not answer.
        """
        environment = TrainingEnvironment.read(environ)
        runtime = Runtime.from_environment(environ=environ)
        return cls.open(environment, runtime, mode=mode, fingerprint=fingerprint, ranks=ranks, self_test=self_test)

    @classmethod
    def open(
        cls,
        environment: TrainingEnvironment,
        runtime: Runtime,
        *,
        mode: SaveMode | str = SaveMode.COPY,
        fingerprint: Mapping[str, str] | None = None,
        ranks: Ranks | None = None,
        self_test: bool = False,
    ) -> Training:
        """As `from_environment`, over what is open already."""
        topology = runtime.topology
        job = topology.job(environment.job)
        residency = residency_for(topology, job.dataset)
        check_hop(job.dataset, residency, environment.site, topology.sites, intent=TRAIN)
        data_store = runtime.store(environment.site)
        if ranks is not None and environment.dataset_snapshot is None:
            # The newest may be another one by the time the last rank looks.
            newest = ranks.from_leader(lambda: _data_record(data_store, job.dataset, environment).snapshot_id)
            environment = replace(environment, dataset_snapshot=newest)
        record = _data_record(data_store, job.dataset, environment)
        leads = ranks is None or ranks.leads
        steps = environment.steps or job.steps
        reference = environment.scratch is not None
        store = _scratch(environment.scratch) if environment.scratch is not None else data_store
        standbys, refused = ((), {}) if reference else _standbys(topology, environment)
        make = Checkpointer if ranks is None else partial(ShardedCheckpointer, ranks=ranks)
        checkpointer = make(
            store,
            environment.run,
            epoch=environment.epoch,
            site=environment.site,
            total_steps=steps,
            every_steps=job.checkpoint_every_steps,
            mode=mode,
            memory_bytes=None if job.checkpoint_memory_mib is None else job.checkpoint_memory_mib * MIB,
            self_test=self_test or environment.self_test,
            preemption=_preemption(environment, topology),
            interval=_interval(job, environment, runtime),
            retention=None if reference or not leads else _retention(job),
            compression=Compression(job.checkpoint_compression.policy, job.checkpoint_compression.level),
            guard=AlwaysGranted() if reference or not leads else _guard(runtime, environment),
            replicas=runtime.stores(standbys) if leads else {},
            dataset_snapshot=record.snapshot_id,
            clock=runtime.clock,
            fingerprint={**environment_fingerprint(("numpy", "pyarrow")), **(fingerprint or {})},
            heartbeat=_heartbeat(environment, data_store) if leads else None,
            heartbeat_seconds=1.0 if environment.heartbeat_key is None else _OBJECT_HEARTBEAT_SECONDS,
            resume_from=environment.resume_from,
            notes={"job": environment.job, "group": environment.group, "refused_standbys": refused},
        )
        step_seconds = job.step_seconds if environment.step_seconds is None else environment.step_seconds
        return cls(
            environment, runtime, job, steps, step_seconds, store, data_store, checkpointer, record, standbys, refused
        )

    @property
    def seed(self) -> int:
        return self.job.seed

    def dataset(self) -> pa.Table:
        """The dataset's snapshot as a table, every byte checked. Raises ObjectDamaged."""
        return open_table(self.data_store, self.data_record)

    def publish_model(self, files: Mapping[str, bytes | Path], finished: Finished) -> CommitRecord:
        """Publish the finished model as a snapshot of the job's model and bring it to the standby sites.

        A standby that does not answer is left to the replication DAG, and one whose jurisdiction the model may not lie
        in is refused it; the heartbeat says so. In a distributed job rank 0 calls it.

        Raises:
            Fenced: the epoch is over; nothing was published.
            CheckpointError: called at another rank than 0.
        """
        self.checkpointer.require_permission(f"model {self.job.model}")
        manifest = finished.manifest
        labels = {
            "run": manifest.run,
            "step": str(manifest.step),
            "epoch": str(self.environment.epoch),
            "model_digest": manifest.model_digest,
            "dataset_snapshot": self.data_record.snapshot_id,
        }
        record = put_snapshot(
            self.store,
            dataset=self.job.model,
            files=files,
            # This process's epoch: a run resumed at its last step has a manifest of the epoch before.
            epoch=self.environment.epoch,
            site=self.environment.site,
            labels=labels,
            clock=self.runtime.clock,
        )
        # A site that did not take the last checkpoint would only hold up the end of the job.
        replicas = {
            site: self._replicate(record, site)
            if finished.replicated.get(site)
            else "left to replication: it did not take the last checkpoint in time"
            for site in self.standbys
        }
        self.checkpointer.note(
            published={
                "model": self.job.model,
                "snapshot_id": record.snapshot_id,
                "model_digest": manifest.model_digest,
                "replicas": {**replicas, **{site: f"refused: {why}" for site, why in self.refused.items()}},
            }
        )
        return record

    def _replicate(self, record: CommitRecord, site: str) -> str:
        topology = self.runtime.topology
        try:
            replicate(
                self.store,
                self.runtime.store(site),
                record=record,
                source_site=self.environment.site,
                target_site=site,
                # Of every job that publishes this model: stricter than this job's own data may be.
                residency=residency_for(topology, self.job.model),
                topology_sites=topology.sites,
                clock=self.runtime.clock,
            )
        except ResidencyRefused as error:
            return f"refused: {error}"
        except HoldfastError as error:
            return str(error)
        return "replicated"


def open_local(folder: Path) -> ObjectStore:
    """A store in a local folder, made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return local_store("scratch", folder)


def _heartbeat(environment: TrainingEnvironment, store: ObjectStore) -> Path | HeartbeatObject | None:
    key = environment.heartbeat_key
    return environment.heartbeat if key is None else HeartbeatObject(store, key)


def _preemption(environment: TrainingEnvironment, topology: Topology) -> str | None:
    if environment.preemption != "site":
        return environment.preemption
    cloud = topology.site(environment.site).cloud
    return None if cloud is Cloud.LOCAL else str(cloud)


def _interval(job: TrainingJob, environment: TrainingEnvironment, runtime: Runtime) -> IntervalPolicy | None:
    asked = job.checkpoint_interval
    if asked is None:
        return None
    rate = FailureRate(prior_mtbf_seconds=asked.mtbf_hours * 3600, prior_weight_failures=asked.mtbf_weight)
    attempts = Attempts(runtime.store(environment.site), environment.run, environment.epoch, holder="")
    try:
        failures, seconds = attempts.failures(now=runtime.clock.now())
        rate = rate.observe(failures=failures, seconds=seconds)
    except HoldfastError:  # a plan by the guess alone is better than no training
        pass
    return IntervalPolicy(
        rate,
        restart_seconds=asked.restart_seconds,
        minimum_seconds=asked.minimum_seconds,
        maximum_seconds=asked.maximum_seconds,
        egress_price_per_gib=runtime.topology.site(environment.site).egress_cost_per_gib,
        egress_budget_per_hour=asked.egress_budget_per_hour,
    )


def _retention(job: TrainingJob) -> Retention | None:
    asked = job.keep_checkpoints
    if asked is None:
        return None
    policy = KeepPolicy(
        last=asked.last, every_steps=asked.every_steps, best=asked.best, metric=asked.metric, mode=asked.mode
    )
    return Retention(policy, grace_seconds=asked.grace_hours * 3600)


def _scratch(folder: Path) -> ObjectStore:
    return open_local(folder)


def _data_record(store: ObjectStore, dataset: str, environment: TrainingEnvironment) -> CommitRecord:
    wanted = environment.dataset_snapshot
    record = find_record(store, dataset, wanted) if wanted else latest(store, dataset, epoch=environment.epoch)
    if record is None:
        raise CheckpointError(
            "the dataset's snapshot is not at this site",
            where=f"{store.name}: {dataset}",
            expected=f"snapshot {wanted}" if wanted else "a published snapshot",
            found="nothing",
            fix="Replicate the dataset to this site first",
        )
    return record


def _standbys(topology: Topology, environment: TrainingEnvironment) -> tuple[tuple[str, ...], dict[str, str]]:
    """The sites that get checkpoints: every active or standby one but this, where the data's residency allows it.

    A checkpoint is made from the data, so it may lie only where the data may.

    Returns:
        those sites, and the ones refused with the reason.
    """
    group, job = topology.group(environment.group), topology.job(environment.job)
    if environment.job not in group.training:
        raise ConfigError(
            "the group does not have this training job",
            where=f"group {environment.group}",
            expected=f"one of {', '.join(group.training) or '(none)'}",
            found=environment.job,
        )
    residency = residency_for(topology, job.dataset)
    allowed, refused = [], {}
    for site in (group.sites.active, *group.sites.standby):
        if site == environment.site:
            continue
        try:
            check_hop(
                f"checkpoints of {environment.run}",
                residency,
                site,
                topology.sites,
                intent=COPY_CHECKPOINTS,
                source=environment.site,
                resource=environment.run,
            )
            allowed.append(site)
        except ResidencyRefused as error:
            refused[site] = str(error)
    return tuple(allowed), refused


def _guard(runtime: Runtime, environment: TrainingEnvironment) -> WriteGuard:
    fence_seconds = runtime.topology.group(environment.group).fencing.fence_seconds
    lease = Lease(
        environment.group,
        environment.site,
        runtime.authority(environment.group),
        fence_seconds=fence_seconds,
        clock=runtime.clock,
    )
    return LeaseGuard(lease, environment.epoch, renew_seconds=fence_seconds / 4)
