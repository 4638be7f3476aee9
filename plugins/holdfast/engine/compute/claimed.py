"""A backend over a service whose jobs have names: claims decide who submits, the name is what there is only one of.

The sequence of a submit:

1. The newest claim in the bucket tells the newest attempt's number, and the number its name.
2. The service is asked for that name. What runs, waits, ended well or was fenced is reattached to.
3. An attempt that ended otherwise is followed by the next number; one that is claimed but not there is made by its
   claimant, or, when that claimant is silent for `CLAIM_SECONDS`, by whoever comes: under the *same* name, so that a
   claimant that was only slow makes nothing second.
4. The claim is taken, then the job is made. Whoever lost the race waits for the winner's job and reattaches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.engine.compute.errors import (
    AlreadyRuns,
    ComputeRefused,
    ComputeUnavailable,
    JobNotStarted,
    NoCapacity,
    UnknownHandle,
)
from holdfast.engine.compute.interface import (
    BackendCapabilities,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
)
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import (
    bucket_digest,
    claim_age_seconds,
    claim_attempt,
    claim_key,
    command_elsewhere,
    ended_by_heartbeat,
    heartbeat_key,
    newest_claimed,
    read_heartbeat,
    request_checkpoint,
    run_and_epoch,
    service_name,
    status_of,
    with_heartbeat,
)
from holdfast.engine.compute.stops import Stops
from holdfast.engine.config import Site
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore

#: A claimant makes its job at once. After this silence another may make it, under the same name.
CLAIM_SECONDS = 120.0
#: How long the loser of a race waits for the winner's job to appear.
_APPEAR_SECONDS = 20.0
#: How long a service may take to end a job beyond the caller's grace.
_HALT_SECONDS = 60.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a service is told to run.

    Args:
        environment: the contract, readable by whoever may read the job.
        secrets: connections and variables: to be kept from readers where the service can.
        topology: the text of the topology file. The service puts it into a file and names that in
            ``HOLDFAST_TOPOLOGY``.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    topology: str
    machine: str | None
    spot: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What a service says of a job.

    Args:
        alive: whether something of it may still write.
        tells_end: False: the service does not tell how it ended, the heartbeat may. On spot capacity, one that ran and
            ended without a word was cut off.
        spot: it ran on capacity that may be taken away.
    """

    state: JobState
    alive: bool
    detail: str | None = None
    tells_end: bool = True
    spot: bool = False


class Service(Protocol):
    """One cloud service. Every call has its timeouts and retries, and raises only this package's errors."""

    def capabilities(self) -> BackendCapabilities: ...

    def job_name(self, name: str, attempt: int) -> str:
        """The deterministic name of an attempt."""

    def look(self, job: str) -> Seen | None:
        """The job of this name; None when the service says that there is none. Raises ComputeUnavailable."""

    def create(self, job: str, order: Order) -> None:
        """Make it; one of this name that is there is left as it is.

        Raises:
            NoCapacity, JobNotStarted, ComputeRefused: it was not made.
            ComputeUnavailable: it may have been made.
        """

    def halt(self, job: str) -> None:
        """End it; one that is gone or ended is no error."""

    def log(self, job: str) -> str: ...

    def links(self, job: str) -> Mapping[str, str]: ...


class ClaimedBackend:
    """A `TrainingBackend` over a `Service`.

    Args:
        opening: the site, its bucket, and what its jobs get.
        service: who runs them.
    """

    def __init__(self, opening: Opening, service: Service) -> None:
        self._opening = opening
        self._service = service
        self._kind = service.capabilities().kind
        self._clock: Clock = opening.clock
        self._stops = Stops(opening.store)

    def capabilities(self) -> BackendCapabilities:
        return self._service.capabilities()

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or reattach; see the module for the sequence and `TrainingBackend.submit` for the errors."""
        with self._bucket() as store:
            number = max(newest_claimed(store, spec.run, spec.epoch), 1)
            seen = self._service.look(self._job(spec.name, number))
            if seen is not None:
                state = self._settled(store, spec.run, spec.epoch, number, seen)
                if spec.finds(number, state):
                    return self._handle(spec.run, spec.epoch, number)
                if seen.alive:
                    raise AlreadyRuns(
                        "the attempt before ended but may still write; no second one was started",
                        where=f"{self._opening.site_name}: {self._job(spec.name, number)}",
                        found=seen.detail,
                        fix="Stop it, then submit again",
                    )
                number += 1
            elif self._once_ran(store, spec, number):
                if spec.means(number):
                    return self._handle(spec.run, spec.epoch, number)
                number += 1
            # An attempt that ended and of which nothing is left, not even its claim, is none to begin again.
            number = max(number, (spec.after or 0) + 1)
            return self._start(store, spec, number)

    def find(self, name: str) -> JobHandle | None:
        run, epoch = run_and_epoch(name)
        with self._bucket() as store:
            number = newest_claimed(store, run, epoch)
        if number == 0 or self._service.look(self._job(name, number)) is None:
            return self._earlier(name, run, epoch, number)
        return self._handle(run, epoch, number)

    def status(self, handle: JobHandle) -> JobStatus:
        """How the attempt stands. Only the service's own word that there is no such job makes it LOST.

        Raises ComputeUnavailable also where only the heartbeat tells how it ended and the bucket does not answer.
        """
        run, epoch, number = self._attempt(handle)
        seen = self._service.look(self._job(handle.name, number))
        store = self._opening.store()
        beat = _heartbeat(store, run, epoch, number)
        if seen is None:
            if _is_fresh(store, run, epoch, number):
                return status_of(JobState.PENDING, beat, "claimed a moment ago; the service does not show it yet")
            # Whether it was on spot capacity nothing tells any more.
            ended = self._stops.read(handle, ended_by_heartbeat(beat) or JobState.LOST, spot=False)
            return status_of(ended, beat, "the service has no such job any more")
        state = self._settled(store, run, epoch, number, seen)
        own = (beat or {}).get("detail") if not seen.tells_end else None
        return status_of(state, beat, str(own) if own else seen.detail)

    def request_checkpoint(self, handle: JobHandle) -> None:
        with self._bucket() as store:
            request_checkpoint(store, heartbeat_key(*self._attempt(handle)))

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """Ask for a checkpoint and wait for it, at most the grace; then have the service end the job.

        How long the process itself has between SIGTERM and SIGKILL is the service's own rule, not ``grace_seconds``.
        """
        run, epoch, number = self._attempt(handle)
        job = self._job(handle.name, number)
        seen = self._service.look(job)
        if seen is not None and seen.alive:
            deadline = self._clock.monotonic() + grace_seconds
            self._stops.note(handle)
            with contextlib.suppress(ObjectStoreError):  # a dead bucket must not keep a job alive
                store = self._opening.store()
                self._await_checkpoint(store, (run, epoch, number), deadline)
            self._service.halt(job)
            self._wait(lambda: not self._is_alive(job), self._clock.monotonic() + _HALT_SECONDS)
        return self.status(handle)

    def confirm_dead(self, handle: JobHandle) -> bool:
        """True when the service says that the job ended, or that there is none and its claim is old."""
        run, epoch, number = self._attempt(handle)
        try:
            seen = self._service.look(self._job(handle.name, number))
        except ComputeUnavailable:
            return False
        if seen is not None:
            return not seen.alive
        return not _is_fresh(self._opening.store(), run, epoch, number)

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        _, _, number = self._attempt(handle)
        text = self._service.log(self._job(handle.name, number)).encode()
        return text[-last_bytes:].decode(errors="replace")

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        with self._bucket() as store:
            return read_heartbeat(store, heartbeat_key(*self._attempt(handle)))

    def links(self, handle: JobHandle) -> Mapping[str, str]:
        _, _, number = self._attempt(handle)
        return self._service.links(self._job(handle.name, number))

    # -----------------------------------------------------------------------------------------------------------

    def _start(self, store: ObjectStore, spec: JobSpec, number: int) -> JobHandle:
        job = self._job(spec.name, number)
        order = self._order(spec, number)
        claim = claim_attempt(store, spec, number, holder=self._opening.holder)
        age = 0.0 if claim.mine else claim_age_seconds(store, claim_key(spec.run, spec.epoch, number))
        if not claim.mine and age < CLAIM_SECONDS:
            if not self._wait(lambda: self._service.look(job) is not None, self._clock.monotonic() + _APPEAR_SECONDS):
                raise ComputeUnavailable(
                    "another submitter claimed this attempt and its job is not there yet",
                    where=f"{self._opening.site_name}: {job}",
                    found=f"claimed by {claim.holder} {age:.0f} s ago",
                    fix=f"Submit again; {CLAIM_SECONDS:.0f} s after the claim anyone may make the job",
                )
            return self._handle(spec.run, spec.epoch, number)
        try:
            self._service.create(job, order)
        except (NoCapacity, JobNotStarted, ComputeRefused):
            # Nothing was made: whoever comes next need not wait for this claim to grow old.
            with contextlib.suppress(ObjectStoreError):
                store.delete(claim_key(spec.run, spec.epoch, number))
            raise
        return self._handle(spec.run, spec.epoch, number)

    def _order(self, spec: JobSpec, number: int) -> Order:
        topology = self._opening.topology
        try:
            text = topology.path.read_text(encoding="utf-8")
        except OSError as error:
            raise JobNotStarted(
                "the topology the job needs cannot be read", where=str(topology.path), found=str(error)
            ) from None
        environment = with_heartbeat(spec, number)
        environment.pop("HOLDFAST_TOPOLOGY", None)
        return Order(
            command=command_elsewhere(spec.command, topology.path.parent),
            environment=environment,
            secrets={name: value for name, value in self._opening.environ.items() if name not in environment},
            topology=text,
            machine=spec.machine,
            spot=spec.spot,
        )

    def _settled(self, store: ObjectStore, run: str, epoch: int, number: int, seen: Seen) -> JobState:
        """The state, with what the service does not tell taken from the heartbeat and from whether a stop was asked."""
        state = seen.state
        if not seen.tells_end:
            with self._answers():
                beat = read_heartbeat(store, heartbeat_key(run, epoch, number))
            told = ended_by_heartbeat(beat)
            if told is not None:
                state = told
            elif seen.spot and beat is not None and beat.get("state") != "failed":
                state = JobState.LOST
        handle = self._handle(run, epoch, number)
        if state is JobState.LOST and seen.spot and not self._stops.was_asked(handle):
            return JobState.PREEMPTED
        return self._stops.read(handle, state, spot=seen.spot)

    def _is_alive(self, job: str) -> bool:
        seen = self._service.look(job)
        return seen is not None and seen.alive

    def _once_ran(self, store: ObjectStore, spec: JobSpec, number: int) -> bool:
        """Whether an attempt the service does not know was there once: it left a heartbeat."""
        return read_heartbeat(store, heartbeat_key(spec.run, spec.epoch, number)) is not None

    def _earlier(self, name: str, run: str, epoch: int, number: int) -> JobHandle | None:
        """The newest attempt below one that is only claimed."""
        if number > 1 and self._service.look(self._job(name, number - 1)) is not None:
            return self._handle(run, epoch, number - 1)
        return self._handle(run, epoch, number) if number else None

    def _await_checkpoint(self, store: ObjectStore, attempt: tuple[str, int, int], deadline: float) -> None:
        key = heartbeat_key(*attempt)
        beat = read_heartbeat(store, key)
        if beat is None:
            return
        wanted = int(beat.get("step") or 0)
        request_checkpoint(store, key)

        def saved() -> bool:
            now = read_heartbeat(store, key) or {}
            durable = now.get("checkpoint")
            return ended_by_heartbeat(now) is not None or (
                isinstance(durable, dict) and int(durable.get("step") or 0) >= wanted
            )

        self._wait(saved, deadline)

    def _wait(self, done: Callable[[], bool], deadline: float) -> bool:
        while not done():
            if self._clock.monotonic() >= deadline:
                return False
            self._clock.sleep(_POLL_SECONDS)
        return True

    def _job(self, name: str, number: int) -> str:
        return self._service.job_name(name, number)

    def _handle(self, run: str, epoch: int, number: int) -> JobHandle:
        name = f"{run}.e{epoch}"
        reference: dict[str, str | int | float] = {
            "run": run,
            "epoch": epoch,
            "attempt": number,
            "job": self._job(name, number),
        }
        return JobHandle(self._kind, self._opening.site_name, name, reference)

    def _attempt(self, handle: JobHandle) -> tuple[str, int, int]:
        reference = handle.reference
        if handle.backend != self._kind or not {"run", "epoch", "attempt"} <= set(reference):
            raise UnknownHandle(
                "this is no handle of this backend",
                where=f"{self._opening.site_name}: {handle.name}",
                expected=f"a handle of {self._kind} with run, epoch and attempt",
                found=f"{handle.backend}: {dict(reference)}",
            )
        return str(reference["run"]), int(reference["epoch"]), int(reference["attempt"])

    @contextlib.contextmanager
    def _bucket(self) -> Iterator[ObjectStore]:
        """The bucket; one that does not answer reads as the service not answering: asking again is right."""
        with self._answers():
            yield self._opening.store()

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except ObjectStoreError as error:
            if not error.transient:
                raise
            raise ComputeUnavailable(
                "the bucket with the claims and heartbeats does not answer",
                where=self._opening.site_name,
                found=str(error)[:300],
            ) from error


def _is_fresh(store: ObjectStore, run: str, epoch: int, number: int) -> bool:
    """Whether the claimant may still be about to make the job. A bucket that does not answer: it may."""
    try:
        return claim_age_seconds(store, claim_key(run, epoch, number)) < CLAIM_SECONDS
    except ObjectNotFound:
        return False
    except ObjectStoreError:
        return True


def _heartbeat(store: ObjectStore, run: str, epoch: int, number: int) -> dict[str, Any] | None:
    """The heartbeat, as far as the bucket answers: a status does not fail for want of it."""
    try:
        return read_heartbeat(store, heartbeat_key(run, epoch, number))
    except ObjectStoreError:
        return None


def limited_name(limit: int, site: Site) -> Callable[[str, int], str]:
    """`Service.job_name` for a service that takes ``limit`` characters; two buckets' jobs are never one."""
    return lambda name, attempt: service_name(f"{name}.{bucket_digest(site)}", attempt, limit=limit)
