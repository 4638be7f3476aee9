"""Training jobs as Jobs of a Kubernetes cluster: EKS, GKE, AKS or any other.

An attempt is a batch/v1 Job of a name that follows from run, epoch and attempt. The API refuses a second Job of one
name, which is what keeps two submitters from starting two writers; whoever comes second reattaches.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

from holdfast.engine.compute.beats import Beats, bucket_answers
from holdfast.engine.compute.errors import AlreadyRuns, ComputeRefused, JobNotStarted, UnknownHandle
from holdfast.engine.compute.interface import (
    BackendCapabilities,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
)
from holdfast.engine.compute.kubernetes_api import ClusterApi
from holdfast.engine.compute.kubernetes_job import (
    ATTEMPT_LABEL,
    CONTAINER,
    JOB_ANNOTATION,
    SPOT_LABEL,
    TERMINATION_GRACE_SECONDS,
    environment_secret,
    job_manifest,
    job_name,
    job_selector,
)
from holdfast.engine.compute.kubernetes_status import is_over, may_write, state_of
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import bucket_digest, ended_by_heartbeat, heartbeat_key, status_of
from holdfast.engine.compute.sdk import require_sdk
from holdfast.engine.compute.stops import Stops
from holdfast.engine.config import Cloud
from holdfast.engine.config.compute import Kubernetes
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.errors import ConfigError

KIND = "kubernetes"
_POLL_SECONDS = 0.5
#: After the grace: for the kubelet to kill, report and let go of a pod.
_MARGIN_SECONDS = 30.0
_LOOKS = 5
_LINE_BYTES = 40
#: What the kubelet of a GKE spot node leaves an ordinary pod; elsewhere the pod's own grace is the shorter one.
_GKE_NOTICE_SECONDS = 15.0


def open_backend(opening: Opening) -> KubernetesBackend:
    """The backend of a site whose compute is ``kind: kubernetes``. Asks the cluster nothing.

    Raises:
        ConfigError: the site has no section ``kubernetes``, or the SDK is not installed.
    """
    settings = opening.site.compute.kubernetes
    if settings is None:
        raise ConfigError(
            "the site has no Kubernetes settings", where=f"sites.{opening.site_name}.compute", expected="`kubernetes`"
        )
    require_sdk("kubernetes", kind=KIND, package="kubernetes")
    rng = random.Random()  # noqa: S311 - spreads load, guards nothing
    api = ClusterApi(
        opening.client or (lambda: own_client(settings)),
        namespace=settings.namespace,
        where=opening.site_name,
        clock=opening.clock,
        rng=rng,
    )
    return KubernetesBackend(opening, settings, api)


def own_client(settings: Kubernetes) -> Any:
    """An ApiClient by the site's own settings: the pod's service account, a kubeconfig, or the default kubeconfig.

    Raises:
        ConfigError: there is no such login.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if settings.in_cluster:
            config.load_incluster_config(client_configuration=configuration)
            return client.ApiClient(configuration)
        return config.new_client_from_config(
            settings.kubeconfig, context=settings.context, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            "the cluster's login cannot be read",
            where="compute.kubernetes",
            expected="in_cluster, or a kubeconfig with the context",
            found=str(error)[:300],
        ) from None


class KubernetesBackend:
    """A `TrainingBackend` of Kubernetes Jobs.

    Args:
        opening: the site, its bucket and the topology.
        settings: the site's section ``kubernetes``.
        api: the cluster.
    """

    def __init__(self, opening: Opening, settings: Kubernetes, api: ClusterApi) -> None:
        self._opening = opening
        self._site = opening.site_name
        self._settings = settings
        self._api = api
        self._clock = opening.clock
        self._bucket = bucket_digest(opening.site)
        self._beats = Beats(opening.store)
        self._stops = Stops(opening.store)

    def capabilities(self) -> BackendCapabilities:
        """Spot is what ``spot_node_selector`` names. The notice is the vendors' word, not measured."""
        spot = bool(self._settings.spot_node_selector)
        on_gke = self._opening.site.cloud is Cloud.GCP
        notice = _GKE_NOTICE_SECONDS if on_gke else float(TERMINATION_GRACE_SECONDS)
        return BackendCapabilities(
            KIND,
            preemption_notice_seconds=notice if spot else None,
            can_request_checkpoint=True,
            spot=spot,
            region=self._opening.site.region,
        )

    def submit(self, spec: JobSpec) -> JobHandle:
        """Create the next attempt's Job, or return the handle of the one that waits, runs or ended for good.

        Raises:
            AlreadyRuns: a pod of an ended attempt is not known to be dead; it may still write.
            JobNotStarted, NoCapacity, ComputeRefused, ComputeUnavailable: see the interface.
        """
        for _ in range(_LOOKS):
            # Before the look at the cluster: an attempt with a heartbeat had its Job before, so the look shows it,
            # unless it has been deleted since; its number is then not used again.
            unused = self._first_without_heartbeat(spec)
            jobs = self._jobs(spec.name)
            if jobs:
                handle = self._handle(spec.name, jobs[-1])
                state = self.status(handle).state
                if state is JobState.PENDING:
                    self._give_environment(jobs[-1])  # whoever created it may have died before
                if spec.finds(handle.attempt, state):
                    return handle
                if not is_over(jobs[-1]):
                    self.stop(handle, grace_seconds=0)  # it could not begin, and must not do so beside the next one
            # An attempt whose Job was deleted before its first heartbeat left nothing here but its number.
            attempt = max(unused, self._above_all(spec.name, jobs), (spec.after or 0) + 1)
            created = self._create(spec, attempt)
            if created is not None:
                return self._handle(spec.name, created)
        raise AlreadyRuns(
            "others create attempts of this job faster than this one can look",
            where=f"{self._site}: {spec.name}",
            expected="one submitter at a time",
        )

    def find(self, name: str) -> JobHandle | None:
        """The newest attempt of the job of this name whose Job is still there, ``None`` when there is none."""
        jobs = self._jobs(name)
        return self._handle(name, jobs[-1]) if jobs else None

    def status(self, handle: JobHandle) -> JobStatus:
        """How the attempt of this handle stands. A cluster that does not answer raises; it is never LOST for that."""
        job, pods = self._look(handle)
        state, detail = state_of(job, pods, self._clock.now())
        beat = self._beats.read(handle, needed=state is None)
        ended = state or ended_by_heartbeat(beat) or JobState.LOST
        return status_of(self._stops.read(handle, ended, spot=bool(handle.reference.get("spot"))), beat, detail)

    def request_checkpoint(self, handle: JobHandle) -> None:
        self._reference(handle)
        self._beats.request_checkpoint(handle)

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        """Delete the attempt's pod with this grace; its Job stays and tells how it ended.

        An attempt without a pod never began, or is suspended: its Job is deleted, so that it does not begin later.
        A pod whose node does not answer is left as it is: nobody can stop it from here.
        """
        job, pods = self._look(handle)
        alive = [pod for pod in pods if may_write(pod)]
        if alive:
            self._stops.note(handle)
        for pod in alive:
            # Zero would take the pod off the books without waiting for its processes to die.
            grace = max(1, math.ceil(grace_seconds))
            self._api.delete_pod(pod.metadata.name, pod.metadata.uid, grace_seconds=grace)
        if job is not None and not is_over(job) and (job.spec.suspend or not pods):
            self._api.delete_job(job.metadata.name, job.metadata.uid)
        deadline = self._clock.monotonic() + grace_seconds + _MARGIN_SECONDS
        while not self.confirm_dead(handle) and self._clock.monotonic() < deadline:
            self._clock.sleep(_POLL_SECONDS)
        return self.status(handle)

    def confirm_dead(self, handle: JobHandle) -> bool:
        """Whether every pod of the attempt is gone or ended, and no Job is left that would make another.

        A pod on a node that does not answer keeps its phase and is not known dead. A pod somebody deleted *by force*
        is gone from the cluster's books though it may live: no one can see that from the API.
        """
        job, pods = self._look(handle)
        return (job is None or is_over(job)) and not any(may_write(pod) for pod in pods)

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        """The end of the newest pod's output, as long as the cluster keeps the pod."""
        _, pods = self._look(handle)
        if not pods:
            return ""
        newest = max(pods, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        # The API's limitBytes cuts the end off, so lines are asked for.
        text = self._api.log(newest.metadata.name, CONTAINER, lines=max(100, last_bytes // _LINE_BYTES))
        return text[-last_bytes:].decode("utf-8", errors="replace")

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        """The job's heartbeat as it wrote it, ``None`` before its first."""
        self._reference(handle)
        return self._beats.read(handle, needed=True)

    def links(self, handle: JobHandle) -> Mapping[str, str]:  # noqa: ARG002
        """A cluster has no page of its own that its API would name; `log` reads the output."""
        return {}

    # -----------------------------------------------------------------------------------------------------------

    def _create(self, spec: JobSpec, attempt: int) -> Any | None:
        """The new Job with its environment; None when another submitter created it first."""
        self._refuse_foreign(spec, attempt)
        manifest = job_manifest(
            spec,
            attempt,
            settings=self._settings,
            topology=self._opening.topology.path,
            has_environment=bool(self._opening.environ),
            bucket=self._bucket,
        )
        job = self._api.create_job(manifest)
        if job is None:
            return None
        try:
            self._give_environment(job)
        except (ComputeRefused, JobNotStarted):
            self._api.delete_job(job.metadata.name, job.metadata.uid)  # its pod would wait for ever
            raise
        return job

    def _give_environment(self, job: Any) -> None:
        if self._opening.environ:
            self._api.create_secret(environment_secret(job, self._opening.environ))

    def _refuse_foreign(self, spec: JobSpec, attempt: int) -> None:
        name = job_name(spec.name, attempt, self._bucket)
        found = self._api.job(name)
        if found is not None and (found.metadata.annotations or {}).get(JOB_ANNOTATION) != spec.name:
            raise JobNotStarted(
                "another Job has the name",
                where=f"{self._site}: {self._settings.namespace}/{name}",
                expected=f"a Job of {spec.name}",
                found="one without its annotation",
                fix="Delete that Job, or give the site a namespace of its own",
            )

    def _above_all(self, name: str, jobs: list[Any]) -> int:
        """The number after every attempt the cluster knows. Raises AlreadyRuns when a pod of one may write."""
        pods = self._api.pods(job_selector(name, self._bucket))
        alive = [pod.metadata.name for pod in pods if may_write(pod)]
        if alive:
            raise AlreadyRuns(
                "a pod of an earlier attempt is not known to be dead; no second one was started",
                where=f"{self._site}: {name}",
                expected="pods that succeeded or failed",
                found=", ".join(alive),
                fix="Bring its node back or remove the node from the cluster, then submit again",
            )
        return 1 + max((_attempt(found) for found in (*jobs, *pods)), default=0)

    def _first_without_heartbeat(self, spec: JobSpec) -> int:
        with bucket_answers(spec.name):
            store = self._opening.store()
            for attempt in itertools.count(1):
                try:
                    store.head(heartbeat_key(spec.run, spec.epoch, attempt))
                except ObjectNotFound:
                    return attempt
        raise AssertionError("unreachable")

    def _jobs(self, name: str) -> list[Any]:
        """The Jobs of this name's attempts, the newest last."""
        found = self._api.jobs(job_selector(name, self._bucket))
        return sorted((job for job in found if job.metadata.annotations[JOB_ANNOTATION] == name), key=_attempt)

    def _look(self, handle: JobHandle) -> tuple[Any | None, list[Any]]:
        """The attempt's Job and pods. The Job first: its pods are made after it, and counted before it ends."""
        reference = self._reference(handle)
        job = self._api.job(str(reference["job"]))
        if job is not None and job.metadata.uid != reference["uid"]:
            job = None
        pods = self._api.pods(f"{job_selector(handle.name, self._bucket)},{ATTEMPT_LABEL}={reference['attempt']}")
        return job, [pod for pod in pods if _owner(pod) in (reference["uid"], None)]

    def _handle(self, name: str, job: Any) -> JobHandle:
        return JobHandle(
            KIND,
            self._site,
            name,
            {
                "namespace": self._settings.namespace,
                "job": job.metadata.name,
                "uid": job.metadata.uid,
                "attempt": _attempt(job),
                "spot": int(SPOT_LABEL in job.metadata.labels),
            },
        )

    def _reference(self, handle: JobHandle) -> Mapping[str, str | int | float]:
        known = handle.backend == KIND and handle.site == self._site and "uid" in handle.reference
        if not known or handle.reference.get("namespace") != self._settings.namespace:
            raise UnknownHandle(
                "this cluster has no such job",
                where=f"{self._site}: {handle.name}",
                expected=f"a handle of {KIND} in namespace {self._settings.namespace}",
                found=f"{handle.backend} at {handle.site}: {dict(handle.reference)}",
            )
        return handle.reference


def _attempt(found: Any) -> int:
    return int(found.metadata.labels[ATTEMPT_LABEL])


def _owner(pod: Any) -> str | None:
    return next((str(owner.uid) for owner in pod.metadata.owner_references or [] if owner.controller), None)
