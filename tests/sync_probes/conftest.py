"""The probes' clouds: the sandbox's emulators reached directly, our way and the rivals' to them, an outside oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectStore, open_store
from holdfast.engine.replication.sync import SyncReport, SyncSite, sync_dataset
from holdfast.engine.snapshot import latest, open_snapshot
from holdfast.sandbox import Sandbox

TOPOLOGY = Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml"
SITES = {"s3": "aws-eu-west-1", "gcs": "gcp-europe-west1", "azure": "azure-westeurope"}
BIN = Path(sys.executable).parent
DATASET = "market"


class Clouds:
    """Three clouds, each under a prefix of this test's own: our stores, and the same places in the rivals' words."""

    def __init__(self, box: Sandbox, folder: Path) -> None:
        self.folder, self.clock = folder, SystemClock()
        self.environ = {**box.environment()}
        for site in SITES.values():  # inside a site its store is reached without its proxy
            inside = box.environment(site)
            connection = load_topology(TOPOLOGY, inside).site(site).connection
            self.environ[f"AIRFLOW_CONN_{connection.upper()}"] = inside[f"AIRFLOW_CONN_{connection.upper()}"]
            if site == SITES["gcs"]:
                self.environ["STORAGE_EMULATOR_HOST"] = inside["STORAGE_EMULATOR_HOST"]
        self.topology = load_topology(TOPOLOGY, self.environ)
        self.prefix = f"probes/{uuid.uuid4().hex}"
        self.stores: dict[str, ObjectStore] = {cloud: self.open(cloud) for cloud in SITES}

    def connection(self, cloud: str) -> Any:
        return EnvironmentConnections(self.environ).get(self.topology.site(SITES[cloud]).connection)

    def bucket(self, cloud: str) -> str:
        return self.topology.site(SITES[cloud]).bucket

    def endpoint(self, cloud: str) -> str:
        connection = self.connection(cloud)
        return str(connection.host if cloud == "azure" else connection.extra["endpoint_url"])

    def open(self, cloud: str, *, endpoint: str | None = None) -> ObjectStore:
        """Our store; with ``endpoint`` through a meddler."""
        connection = self.connection(cloud)
        if endpoint is not None:
            extra = {**connection.extra, "endpoint_url": endpoint, "service_config": {"s3": {"endpoint_url": endpoint}}}
            connection = connection.model_copy(update={"extra": extra})
        return self._open(cloud, connection, self.prefix)

    def open_at(self, cloud: str, prefix: str) -> ObjectStore:
        """Another folder of the same bucket."""
        return self._open(cloud, self.connection(cloud), prefix)

    def _open(self, cloud: str, connection: Any, prefix: str) -> ObjectStore:
        site = self.topology.site(SITES[cloud]).model_copy(update={"prefix": prefix})
        return open_store(SITES[cloud], site, connection)

    def sync(
        self, source: str, *targets: str, policy: Sync | None = None, source_store: ObjectStore | None = None
    ) -> SyncReport:
        return sync_dataset(
            SyncSite(SITES[source], source_store or self.stores[source]),
            [SyncSite(SITES[target], self.stores[target]) for target in targets],
            dataset=DATASET,
            folder=DATASET,
            policy=policy or Sync(),
            epoch=1,
            residency=None,
            topology_sites=self.topology.sites,
            clock=self.clock,
        )

    def shows(self, cloud: str) -> dict[str, bytes]:
        record = latest(self.stores[cloud], DATASET, epoch=1)
        assert record is not None, f"{cloud} shows nothing"
        opened = open_snapshot(self.stores[cloud], record)
        return {path: opened.read(path) for path in opened.manifest.paths}

    # -- the same places for others ------------------------------------------------------------------------------------

    def s3(self, endpoint: str | None = None) -> Any:
        """boto3's client: what the source's writers use."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint("s3"),
            aws_access_key_id="sandbox",
            aws_secret_access_key="sandbox-secret",
            region_name="eu-west-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def write_in_parts(self, path: str, data: bytes, *, part_bytes: int = 8 * 1024 * 1024) -> None:
        """As the AWS CLI and every SDK write a large object: its ETag is no MD5 of its bytes."""
        import io

        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes)
        self.s3().upload_fileobj(io.BytesIO(data), self.bucket("s3"), self.key(path), Config=config)

    def key(self, path: str) -> str:
        return f"{self.prefix}/data/{DATASET}/{path}"

    def at(self, cloud: str, folder: str = f"data/{DATASET}") -> str:
        """A folder of ours in rclone's words."""
        return f"{cloud}:{self.bucket(cloud)}/{self.prefix}/{folder}"

    def rclone_environment(self, s3_endpoint: str | None = None) -> dict[str, str]:
        azure = self.connection("azure")
        return {
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "Other",
            "RCLONE_CONFIG_S3_ENDPOINT": s3_endpoint or self.endpoint("s3"),
            "RCLONE_CONFIG_S3_ACCESS_KEY_ID": "sandbox",
            "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": "sandbox-secret",
            "RCLONE_CONFIG_S3_REGION": "eu-west-1",
            "RCLONE_CONFIG_S3_NO_CHECK_BUCKET": "true",
            "RCLONE_CONFIG_AZURE_TYPE": "azureblob",
            "RCLONE_CONFIG_AZURE_ACCOUNT": azure.login,
            "RCLONE_CONFIG_AZURE_KEY": azure.password,
            "RCLONE_CONFIG_AZURE_ENDPOINT": self.endpoint("azure"),
            "RCLONE_CONFIG_AZURE_NO_CHECK_CONTAINER": "true",
            "RCLONE_CONFIG_GCS_TYPE": "google cloud storage",
            "RCLONE_CONFIG_GCS_ANONYMOUS": "true",
            "RCLONE_CONFIG_GCS_BUCKET_POLICY_ONLY": "true",
            "RCLONE_CONFIG_GCS_ENDPOINT": f"{self.endpoint('gcs')}/storage/v1/",
            "RCLONE_CONFIG_GCS_NO_CHECK_BUCKET": "true",
        }

    def rclone(self, *arguments: str, s3_endpoint: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "rclone"), "--retries", "1", "--low-level-retries", "2", *arguments],
            env={**os.environ, **self.rclone_environment(s3_endpoint)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def s5cmd(self, *arguments: str, s3_endpoint: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "sandbox",
            "AWS_SECRET_ACCESS_KEY": "sandbox-secret",
            "AWS_REGION": "eu-west-1",
        }
        return subprocess.run(
            [str(BIN / "s5cmd"), "--endpoint-url", s3_endpoint or self.endpoint("s3"), *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def airflow(self, script: str) -> dict[str, Any]:
        """Run a script with Airflow's operators in a process of its own; its last line is what it found, as JSON."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, **self.environ, "AIRFLOW_HOME": str(self.folder / "airflow")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def oracle(self, source: str, target: str) -> None:
        """`rclone check --download`, which shares no code with us: the newest replica's objects are the source's."""
        record = latest(self.stores[target], DATASET, epoch=1)
        assert record is not None
        opened = open_snapshot(self.stores[target], record)
        folders: dict[str, list[str]] = {}
        for path in opened.manifest.paths:
            place = opened.placed.get(path)
            key = place.key if place is not None and place.key else f"data/{DATASET}/{path}"
            assert key.endswith("/" + path)
            folders.setdefault(key.removesuffix("/" + path), []).append(path)
        for folder, paths in folders.items():
            names = self.folder / "names.txt"
            names.write_text("".join(f"{path}\n" for path in paths))
            done = self.rclone(
                "check", "--download", "--combined", "-", "--files-from-raw", str(names), self.at(source),
                self.at(target, folder),
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert sorted(done.stdout.splitlines()) == sorted(f"= {path}" for path in paths)


@pytest.fixture
def clouds(sandbox: Sandbox, tmp_path: Path) -> Clouds:
    return Clouds(sandbox, tmp_path)


class Meddler:
    """A proxy in front of S3 that does something once, just before it passes on the n-th read of an object's bytes."""

    def __init__(self, upstream: str, key: str, nth: int, act: Callable[[], None]) -> None:
        self._upstream = urlsplit(upstream)
        self._key, self._nth, self._act, self._lock = key, nth, act, threading.Lock()
        self.reads = 0
        self.acted = False
        meddler = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                meddler._look_at(self.command, self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = HTTPConnection(meddler._upstream.hostname or "", meddler._upstream.port, timeout=60)
                try:
                    upstream.request(self.command, self.path, body=body or None, headers=dict(self.headers))
                    answer = upstream.getresponse()
                    data = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                            self.send_header(name, value)
                    length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                    self.send_header("Content-Length", length or "0")
                    self.end_headers()
                    self.wfile.write(data)
                finally:
                    upstream.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _look_at(self, verb: str, path: str) -> None:
        if verb != "GET" or not urlsplit(path).path.endswith(self._key) or "list-type" in path:
            return
        with self._lock:
            self.reads += 1
            if self.reads == self._nth and not self.acted:
                self.acted = True
                self._act()

    def __enter__(self) -> Meddler:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def meddler(clouds: Clouds) -> Iterator[Callable[[str, int, Callable[[], None]], Meddler]]:
    """Makes a meddler in front of the emulated S3."""
    running: list[Meddler] = []

    def make(key: str, nth: int, act: Callable[[], None]) -> Meddler:
        made = Meddler(clouds.endpoint("s3"), key, nth, act)
        running.append(made)
        return made.__enter__()

    yield make
    for one in running:
        one.__exit__()


@pytest.fixture
def remember(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Notes what a rival did; shown with ``-rP`` and in JUnit's properties."""

    def note(rival: str, outcome: str) -> None:
        record_property(rival, outcome)
        print(f"{rival}: {outcome}")

    return note
