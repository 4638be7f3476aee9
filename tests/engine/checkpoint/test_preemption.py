"""Preemption notices, from a loopback server that answers as the clouds' documentation says. No cloud was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.checkpoint.worlds import wait_for
from holdfast.engine.checkpoint import Checkpointer, StopRequested, TrainingState, preemption
from holdfast.engine.checkpoint.preemption import PreemptionWatch
from holdfast.engine.objectstore import memory_store
from holdfast.errors import ConfigError


class Metadata:
    """What the endpoint knows. ``asked`` are the requests that had the headers they need."""

    def __init__(self) -> None:
        self.notice = False
        self.broken = False
        self.others_only = False
        self.tokens = 0
        self.asked: list[str] = []

    def answer(self, method: str, path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        if self.broken:
            return 500, "not now", {}
        plain = path.partition("?")[0]
        if plain == "/latest/api/token":
            self.tokens += 1
            granted = method == "PUT" and headers.get("X-aws-ec2-metadata-token-ttl-seconds") == "21600"
            return (200, f"token {self.tokens}", {}) if granted else (400, "", {})
        self.asked.append(path)
        if plain == "/latest/meta-data/spot/instance-action":
            if headers.get("X-aws-ec2-metadata-token") != f"token {self.tokens}" or self.tokens == 1:
                return 401, "", {}
            told = json.dumps({"action": "terminate", "time": "2026-01-02T03:04:05Z"})
            return (200, told, {}) if self.notice else (404, "", {})
        if plain == "/computeMetadata/v1/instance/preempted":
            if headers.get("Metadata-Flavor") != "Google":
                return 403, "", {}
            return 200, "TRUE" if self.notice else "FALSE", {"ETag": "after" if self.notice else "before"}
        if headers.get("Metadata") != "true":
            return 400, "", {}
        if plain == "/metadata/instance/compute/name":
            return 200, "ours", {}
        events = [{"EventId": "1", "EventType": "Preempt", "Resources": ["theirs"], "NotBefore": ""}]
        if self.notice and not self.others_only:
            events.append({"EventId": "2", "EventType": "Preempt", "Resources": ["ours"], "NotBefore": "soon"})
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": events}), {}


class Server:
    def __init__(self) -> None:
        self.metadata = metadata = Metadata()

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                status, text, headers = metadata.answer(self.command, self.path, self.headers)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("cloud", "says"), [("aws", "terminate"), ("gcp", "preempted"), ("azure", "Preempt, not before soon")]
)
def test_a_notice_is_told_once_and_nothing_else_is_one(server: Server, cloud: str, says: str) -> None:
    told: list[str] = []
    watch = PreemptionWatch(cloud, told.append, base_url=server.url, pause_seconds=0.001)
    watch.start()
    wait_for(lambda: len(server.metadata.asked) >= 4)
    assert told == []
    server.metadata.notice = True
    wait_for(lambda: told != [])
    watch._thread.join(20)
    assert len(told) == 1
    assert says in told[0]
    if cloud == "aws":
        assert server.metadata.tokens == 2, "the first one was too old"
    if cloud == "gcp":
        assert "wait_for_change=true" in server.metadata.asked[0]
        assert any("last_etag=before" in path for path in server.metadata.asked)


def test_the_notice_of_another_machine_is_none(server: Server) -> None:
    told: list[str] = []
    server.metadata.notice = server.metadata.others_only = True
    watch = PreemptionWatch("azure", told.append, base_url=server.url, pause_seconds=0.001)
    watch.start()
    wait_for(lambda: len(server.metadata.asked) >= 6)
    watch.close()
    watch._thread.join(20)
    assert told == []


@pytest.mark.parametrize("cloud", preemption.CLOUDS)
def test_an_endpoint_that_fails_is_asked_again(server: Server, cloud: str) -> None:
    told: list[str] = []
    server.metadata.broken = server.metadata.notice = True
    watch = PreemptionWatch(cloud, told.append, base_url=server.url, pause_seconds=0.001)
    looks: list[int] = []
    look = watch._look
    watch._look = lambda: (looks.append(1), look())[1]
    watch.start()
    wait_for(lambda: len(looks) >= 3)
    server.metadata.broken = False
    wait_for(lambda: told != [])


def test_a_machine_without_an_endpoint_trains_on(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.close()
    server.close = lambda: None  # type: ignore[method-assign]
    looked = threading.Event()
    watch = PreemptionWatch("aws", lambda _notice: None, base_url=server.url, pause_seconds=0.001)
    look = watch._look
    count: list[int] = []

    def counted() -> str | None:
        count.append(1)
        if len(count) > 2:
            looked.set()
        return look()

    watch._look = counted
    watch.start()
    assert looked.wait(20)
    assert watch._thread.is_alive()
    watch.close()


def test_a_notice_makes_training_save_and_leave(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(
        "holdfast.engine.checkpoint.checkpointer.PreemptionWatch",
        lambda cloud, noticed: PreemptionWatch(cloud, noticed, base_url=server.url, pause_seconds=0.001),
    )
    it = Checkpointer(
        memory_store(), "run", epoch=1, site="site-a", every_steps=1000, fingerprint={}, preemption="azure"
    )
    server.metadata.notice = True
    with it:
        wait_for(lambda: "preemption" in it.status())
        with pytest.raises(StopRequested, match="step 7 is saved"):
            it.step(7, TrainingState({"model": b"7"}))
    assert it.status()["preemption"] == "Preempt, not before soon"


def test_a_cloud_nobody_knows_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="aws, gcp, azure"):
        Checkpointer(memory_store(), "run", epoch=1, site="site-a", every_steps=1, preemption="moon")
