"""An API server of Jobs, Pods and Secrets on loopback, with the Job controller and one node behind it.

It is written from the API reference and the documentation of Jobs and pods, checks bodies with the SDK's own models
(`kubernetes_schema`) and runs a Job's command as a process (`kubernetes_pod`). It proves the client's side, not how a
cluster behaves: no scheduler, no admission, no image, no Kueue; a test plays those by hand.
"""

from __future__ import annotations

import json
import threading
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes_pod import Process
from kubernetes_schema import Invalid, check

Document = dict[str, Any]
_PREFIXES = {"jobs": "/apis/batch/v1/namespaces/", "pods": "/api/v1/namespaces/", "secrets": "/api/v1/namespaces/"}
_MODELS = {"jobs": "V1Job", "secrets": "V1Secret"}


class ApiError(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        self.status["message"] = message
        self.code = code


class KubernetesServer:
    """One cluster.

    Args:
        image: the folder that stands in for the image's working folder.
        folder: where pods keep their volumes and logs.

    A test may set ``schedulable`` and ``node_answers`` to False, put statuses into ``failures`` (the next requests
    are answered with them) and make ``lose_answers`` positive (a POST then happens and its answer is lost).
    """

    namespace = "default"

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self._folder = image, folder
        self.objects: dict[str, dict[str, Document]] = {"jobs": {}, "pods": {}, "secrets": {}}
        self.processes: dict[str, Process] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[int] = []
        self.lose_answers = 0
        self.schedulable, self.node_answers = True, True
        #: Why no container begins, e.g. ``ErrImagePull``.
        self.cannot_begin = ""
        self.changed = threading.Condition(threading.RLock())
        self._threads: list[threading.Thread] = []
        server = self

        class Handler(_Handler):
            cluster = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        for process in list(self.processes.values()):
            process.kill()
        for thread in self._threads:
            thread.join(20)

    # -- what a test does ---------------------------------------------------------------------------------------

    def the_pod(self) -> Document:
        """The only pod."""
        (pod,) = self.objects["pods"].values()
        return pod

    def schedule(self) -> None:
        """There is room now."""
        with self.changed:
            self.schedulable = True
            for pod in list(self.objects["pods"].values()):
                self._start(pod)

    def admit(self, job: str) -> None:
        """What Kueue does when a Job's turn has come."""
        with self.changed:
            found = self.objects["jobs"][job]
            found["spec"]["suspend"] = False
            self._reconcile(found)

    def evict(self, pod: str, grace_seconds: float, *, reason: str = "TerminationByKubelet") -> None:
        """The node goes: the condition, SIGTERM, SIGKILL; the pod stays as a failed one, as the kubelet leaves it."""
        with self.changed:
            status = self.objects["pods"][pod]["status"]
            status["conditions"].append(
                {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "node shutdown"}
            )
        self.processes[pod].terminate(grace_seconds)

    def kill(self, pod: str) -> None:
        """The kernel's, as when memory runs out."""
        self.processes[pod].kill()

    # -- the API ------------------------------------------------------------------------------------------------

    def create(self, kind: str, body: Document) -> Document:
        if kind not in _MODELS:
            raise ApiError(405, "MethodNotAllowed", f"{kind} are not created here")
        try:
            check(body, _MODELS[kind])
        except Invalid as error:
            strict = "strict decoding" in str(error)
            raise ApiError(400 if strict else 422, "BadRequest" if strict else "Invalid", str(error)) from None
        name = body["metadata"]["name"]
        with self.changed:
            if name in self.objects[kind]:
                raise ApiError(409, "AlreadyExists", f'{kind} "{name}" already exists')
            metadata = {**body["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            made = {**body, "metadata": metadata}
            self.objects[kind][name] = made
            if kind == "jobs":
                made["status"] = {}
                self._reconcile(made)
            else:
                for pod in list(self.objects["pods"].values()):
                    self._start(pod)
            self.changed.notify_all()
            return made

    def delete(self, kind: str, name: str, options: Document) -> Document:
        try:
            check(options, "V1DeleteOptions")
        except Invalid as error:
            raise ApiError(400, "BadRequest", str(error)) from None
        with self.changed:
            found = self.get(kind, name)
            wanted = options.get("preconditions", {}).get("uid")
            if wanted not in (None, found["metadata"]["uid"]):
                raise ApiError(409, "Conflict", "the UID in the precondition does not match")
            found["metadata"].setdefault("deletionTimestamp", now())
            if kind == "pods":
                self._delete_pod(found, options.get("gracePeriodSeconds"))
            elif kind == "jobs":
                owned = [pod for pod in self.objects["pods"].values() if _owner(pod) == found["metadata"]["uid"]]
                for pod in owned:
                    pod["metadata"].setdefault("deletionTimestamp", now())
                    self._delete_pod(pod, None)
                self._collect(found)
            return found

    def get(self, kind: str, name: str) -> Document:
        if name not in self.objects[kind]:
            raise ApiError(404, "NotFound", f'{kind} "{name}" not found')
        return self.objects[kind][name]

    def list(self, kind: str, selector: str) -> Document:
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
        found = [
            item for item in self.objects[kind].values() if wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}

    def log(self, name: str, lines: int | None) -> str:
        self.get("pods", name)
        if name not in self.processes:
            raise ApiError(400, "BadRequest", f'container "trainer" in pod "{name}" is waiting to start')
        text = self.processes[name].log_file.read_text().splitlines(keepends=True)
        return "".join(text if lines is None else text[-lines:])

    # -- the controllers and the kubelet ------------------------------------------------------------------------

    def _reconcile(self, job: Document) -> None:
        if job["spec"].get("suspend"):
            job["status"]["conditions"] = [_condition("Suspended", "JobSuspended", "Job suspended")]
            return
        job["status"] = {"startTime": now(), "active": 1, "conditions": []}
        metadata, template = job["metadata"], job["spec"]["template"]
        name = f"{metadata['name']}-{uuid.uuid4().hex[:5]}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": name,
                "namespace": self.namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
                "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/controller-uid": metadata["uid"]},
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "conditions": []},
        }
        self.objects["pods"][name] = pod
        self._start(pod)

    def _start(self, pod: Document) -> None:
        name, status = pod["metadata"]["name"], pod["status"]
        if name in self.processes:
            return
        if not self.schedulable:
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            status["conditions"] = [_condition("PodScheduled", "Unschedulable", message, value="False")]
            return
        sources = pod["spec"]["containers"][0].get("envFrom", [])
        missing = [each["secretRef"]["name"] for each in sources if each["secretRef"]["name"] not in self._secrets()]
        status["conditions"] = [_condition("PodScheduled", "", "")]
        if self.cannot_begin:
            waiting = {"reason": self.cannot_begin, "message": "no such image"}
            status["containerStatuses"] = [_container(pod, {"waiting": waiting})]
            return
        if missing:
            waiting = {"reason": "CreateContainerConfigError", "message": f'secret "{missing[0]}" not found'}
            status["containerStatuses"] = [_container(pod, {"waiting": waiting})]
            return
        process = Process(pod, self._secrets(), image=self.image, folder=self._folder / name)
        self.processes[name] = process
        status |= {"phase": "Running", "containerStatuses": [_container(pod, {"running": {"startedAt": now()}})]}
        status["conditions"].append(_condition("Ready", "", ""))
        thread = threading.Thread(target=self._watch, args=(pod, process), daemon=True)
        self._threads.append(thread)
        thread.start()
        self.changed.notify_all()

    def _watch(self, pod: Document, process: Process) -> None:
        code = process.wait()
        with self.changed:
            ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": now()}
            if code != 0:
                ended["message"] = process.log_file.read_text()[-2048:]
            pod["status"]["containerStatuses"] = [_container(pod, {"terminated": ended})]
            pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
            self._count(pod)
            self.changed.notify_all()

    def _count(self, pod: Document) -> None:
        """The Job controller: count an ended pod, end the Job, let go of a deleted pod."""
        job = next((found for found in self.objects["jobs"].values() if found["metadata"]["uid"] == _owner(pod)), None)
        if job is not None:
            if pod["status"]["phase"] == "Succeeded":
                ends, reason = (
                    ("SuccessCriteriaMet", "Complete"),
                    ("CompletionsReached", "Reached expected completions"),
                )
                job["status"] = {**job["status"], "active": 0, "succeeded": 1, "completionTime": now()}
            else:
                ends, reason = (
                    ("FailureTarget", "Failed"),
                    ("BackoffLimitExceeded", "Job has reached the backoff limit"),
                )
                job["status"] = {**job["status"], "active": 0, "failed": 1}
            job["status"]["conditions"] = [_condition(kind, *reason) for kind in ends]
        if "deletionTimestamp" in pod["metadata"]:
            self.objects["pods"].pop(pod["metadata"]["name"], None)
        if job is not None:
            self._collect(job)

    def _delete_pod(self, pod: Document, grace_seconds: int | None) -> None:
        name = pod["metadata"]["name"]
        if not self.node_answers and name in self.processes:
            return
        if name not in self.processes or pod["status"]["phase"] in ("Succeeded", "Failed"):
            pod["status"]["phase"] = "Failed" if name not in self.processes else pod["status"]["phase"]
            self._count(pod)
            return
        grace = pod["spec"]["terminationGracePeriodSeconds"] if grace_seconds is None else grace_seconds
        thread = threading.Thread(target=self.processes[name].terminate, args=(grace,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _collect(self, job: Document) -> None:
        """The garbage collector: a Job that is deleted goes after its pods, and what it owns with it."""
        uid = job["metadata"]["uid"]
        if "deletionTimestamp" not in job["metadata"] or any(_owner(pod) == uid for pod in self._pods()):
            return
        self.objects["jobs"].pop(job["metadata"]["name"], None)
        for name in [name for name, secret in self.objects["secrets"].items() if _owner(secret) == uid]:
            del self.objects["secrets"][name]

    def _pods(self) -> list[Document]:
        return list(self.objects["pods"].values())

    def _secrets(self) -> dict[str, dict[str, str]]:
        return {name: secret["stringData"] for name, secret in self.objects["secrets"].items()}


class _Handler(BaseHTTPRequestHandler):
    cluster: KubernetesServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_arguments: object) -> None:
        """Silence."""

    def _answer(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cluster = self.cluster
        cluster.requests.append((method, self.path))
        if cluster.failures:
            error = ApiError(cluster.failures.pop(0), "Test", "as the test asked")
            return self._send(error.code, error.status)
        try:
            with cluster.changed:
                code, document = self._do(method, json.loads(raw) if raw else {})
                text = document if isinstance(document, str) else json.dumps(document)
        except ApiError as error:
            return self._send(error.code, error.status)
        if method == "POST" and cluster.lose_answers:
            cluster.lose_answers -= 1
            self.close_connection = True
            return None
        return self._send(code, text)

    def _do(self, method: str, body: Document) -> tuple[int, Document | str]:
        url, cluster = urlsplit(self.path), self.cluster
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind, name, sub = self._resource(url.path)
        if method == "POST":
            return 201, cluster.create(kind, body)
        if method == "DELETE":
            return 200, cluster.delete(kind, name, body)
        if sub == "log":
            return 200, cluster.log(name, int(query["tailLines"]) if "tailLines" in query else None)
        if name:
            return 200, cluster.get(kind, name)
        return 200, cluster.list(kind, query.get("labelSelector", ""))

    def _resource(self, path: str) -> tuple[str, str, str]:
        for kind, prefix in _PREFIXES.items():
            start = f"{prefix}{self.cluster.namespace}/{kind}"
            if path == start or path.startswith(f"{start}/"):
                name, _, sub = path[len(start) + 1 :].partition("/")
                return kind, name, sub
        raise ApiError(404, "NotFound", f"no resource at {path}")

    def _send(self, code: int, document: Document | str) -> None:
        data = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _owner(item: Document) -> str:
    return str(item["metadata"]["ownerReferences"][0]["uid"])


def _condition(kind: str, reason: str, message: str, *, value: str = "True") -> Document:
    return {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now()}


def _container(pod: Document, state: Document) -> Document:
    image = pod["spec"]["containers"][0]["image"]
    ready = "running" in state
    name = pod["spec"]["containers"][0]["name"]
    return {"name": name, "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}
