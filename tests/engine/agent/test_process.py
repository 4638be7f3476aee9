"""The agent as a process at a site of the sandbox: stopped, cut off, promoted, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from holdfast.engine.agent.predictor import import_xgboost
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import begin_epoch, latest, new_fork, put_snapshot
from holdfast.sandbox import Sandbox

TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"
GROUP, MODEL = "market-risk", "volatility-model"
T_FENCE = 5.0
INSTANCES = [[0.25, 0.5], [0.75, 0.5]]

pytestmark = [pytest.mark.sandbox, pytest.mark.alone]


class AgentProcess:
    def __init__(self, world: World, site: str, port: int, *options: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        environ = {**os.environ, **world.sandbox.environment(site), "HOLDFAST_TOPOLOGY": str(world.topology)}
        # The agents of this test listen where the test says, not where the sandbox's own would.
        environ |= world.services
        self.process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.engine.agent", "--site", site, "--port", str(port), *options], env=environ
        )

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=5, trust_env=False)

    def predict(self) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"instances": INSTANCES}, timeout=5, trust_env=False)

    def until(self, what: Callable[[AgentProcess], bool], seconds: float = 120.0) -> float:
        began = time.monotonic()
        while True:
            with suppress(httpx.HTTPError):
                if what(self):
                    return time.monotonic() - began
            assert time.monotonic() - began < seconds, "it never happened"
            time.sleep(0.02)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


class World:
    """The sandbox's clouds with a topology of this test's own: the same buckets, other keys."""

    def __init__(self, sandbox: Sandbox, folder: Path, free_port: Callable[[], int]) -> None:
        self.sandbox = sandbox
        document: dict[str, Any] = yaml.safe_load(TOPOLOGY.read_text())
        for site in document["sites"].values():
            site["prefix"] = f"test-{uuid4().hex[:12]}"
        # Longer than the sandbox's own, so that a busy machine is not taken for a lost lease.
        document["groups"][GROUP]["fencing"]["fence_seconds"] = T_FENCE
        document["groups"][GROUP]["detection"] |= {"timeout_seconds": 1.5, "heartbeat_stale_seconds": 4}
        self.topology = folder / "holdfast.yaml"
        self.topology.write_text(yaml.safe_dump(document))
        self.ports = {site: free_port() for site in (AWS, GCP, AZURE)}
        self.services = {
            f"HOLDFAST_SERVICE_{site.upper().replace('-', '_')}": f"http://127.0.0.1:{port}"
            for site, port in self.ports.items()
        }
        self.runtime = Runtime.from_environment(self.topology, sandbox.environment() | self.services)
        self.authority = self.runtime.authority(GROUP)
        self.agents: list[AgentProcess] = []

    def agent(self, site: str, *options: str) -> AgentProcess:
        self.agents.append(AgentProcess(self, site, self.ports[site], *options))
        return self.agents[-1]

    def move(self, expected: int, site: str) -> None:
        self.authority.advance(GROUP, expected_epoch=expected, active_site=site, plan_id=f"plan-{expected}", reason="")

    def publish(self, site: str, bias: float = 0.0) -> None:
        numpy, xgboost = pytest.importorskip("numpy"), import_xgboost()
        rows = numpy.linspace(0, 1, 40).reshape(20, 2)
        booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(rows, label=rows.sum(axis=1) + bias), 3)
        files = {"model.ubj": bytes(booster.save_raw("ubj")), "features.json": b'["x", "y"]'}
        put_snapshot(
            self.runtime.store(site),
            dataset=MODEL,
            files=files,
            epoch=1,
            site=site,
            labels={"model_digest": f"blake3:{bias}"},
            clock=self.runtime.clock,
        )

    def fork(self, site: str, epoch: int) -> None:
        """What a promotion does for the model."""
        store = self.runtime.store(site)
        record = latest(store, MODEL, epoch=epoch - 1)
        begin_epoch(
            store,
            record,
            new_fork(
                MODEL,
                epoch=epoch,
                parent_epoch=epoch - 1,
                forked_from=record.snapshot_id,
                site=site,
                plan_id="plan",
                holder="test",
                reason="test",
                created_at=self.runtime.clock.now(),
            ),
        )


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[World]:
    made = World(sandbox, tmp_path, free_port)
    made.move(0, AWS)
    try:
        yield made
    finally:
        for agent in made.agents:
            agent.end()


def serves(epoch: int) -> Callable[[AgentProcess], bool]:
    def check(agent: AgentProcess) -> bool:
        answer = agent.predict()
        return answer.status_code == 200 and answer.json()["epoch"] == epoch

    return check


def test_a_stopped_process_refuses_with_its_first_answer_after_waking(world: World) -> None:
    world.publish(AWS)
    agent = world.agent(AWS)
    agent.until(serves(1))
    agent.process.send_signal(signal.SIGSTOP)
    time.sleep(T_FENCE + 0.5)  # the time itself is what is tested
    world.move(1, GCP)
    agent.process.send_signal(signal.SIGCONT)
    answer = agent.predict()
    assert answer.status_code == 503
    assert "predictions" not in answer.json()
    agent.until(lambda a: a.get("/epoch").json()["role"] == "standby")
    assert agent.predict().status_code == 503


def test_a_site_that_is_cut_off_fences_itself_and_learns_of_a_newer_epoch_when_it_is_back(world: World) -> None:
    world.publish(AWS)
    agent = world.agent(AWS)
    agent.until(serves(1))
    cut_at = time.monotonic()
    world.sandbox.fault(AWS, "down")
    refused = agent.until(lambda a: a.predict().status_code == 503)
    # The lease's last read began before the cut, or just before it was felt.
    assert time.monotonic() - cut_at < T_FENCE + 10, refused
    assert "majority" in agent.predict().json()["refused"]
    world.move(1, AWS)  # committed by the majority outside
    world.sandbox.clear(AWS, drop=True)
    agent.until(lambda a: "no model for epoch 2" in a.predict().json().get("refused", ""))
    world.fork(AWS, 2)
    agent.until(serves(2))


def test_a_promoted_site_answers_soon_after_its_epoch_began(world: World) -> None:
    world.publish(GCP)
    agent = world.agent(GCP)
    agent.until(lambda a: a.get("/health").json()["model"] is not None)
    assert agent.predict().json()["refused"] == f"{AWS} is active in epoch 1"
    world.move(1, GCP)
    world.fork(GCP, 2)
    began = time.monotonic()
    httpx.post(f"{agent.url}/refresh", trust_env=False)
    agent.until(serves(2), seconds=10)
    print(f"answered {time.monotonic() - began:.2f} s after its epoch began")


def test_heartbeats_of_every_agent_reach_every_bucket_and_the_dead_one_is_missed(world: World) -> None:
    from holdfast.engine.health import Verdict, open_watch

    world.publish(AWS)
    for site in (AWS, GCP, AZURE):
        world.agent(site)
    for agent in world.agents:
        agent.until(lambda a: a.get("/health").status_code == 200)
    stores = world.runtime.stores((AWS, GCP, AZURE))
    watch = open_watch(world.runtime.topology, GROUP, stores, clock=world.runtime.clock)
    deadline = time.monotonic() + 60
    for verdicts in watch.verdicts():
        if all(v.verdict is Verdict.HEALTHY and len(v.observations) == 9 for v in verdicts.values()):
            break
        assert time.monotonic() < deadline, verdicts
    world.sandbox.fault(AWS, "down")
    world.agents[0].process.send_signal(signal.SIGSTOP)
    verdict = watch.detect_down(AWS, deadline_seconds=60)
    assert verdict.verdict is Verdict.DOWN
    assert any("heartbeat: confirmed by" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("mode", ["up", "blackhole"])
def test_sigterm_ends_it_soon_whatever_the_stores_do(world: World, mode: str) -> None:
    agent = world.agent(AZURE)
    agent.until(lambda a: a.get("/epoch").status_code == 200)
    if mode != "up":
        for site in (AWS, GCP, AZURE):
            world.sandbox.fault(site, mode)
        agent.until(lambda a: a.get("/health").json()["role"] == "unknown")
    agent.process.terminate()
    # uvicorn ends a graceful stop by raising the signal again once everything is closed.
    assert agent.process.wait(20) in (0, -signal.SIGTERM)


def test_an_agent_of_no_site_says_so_and_ends(sandbox_env: dict[str, str]) -> None:
    del sandbox_env
    run = subprocess.run(
        [sys.executable, "-m", "holdfast.engine.agent", "--site", "mars", "--topology", str(TOPOLOGY)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 2
    assert "mars" in run.stderr
    assert "Traceback" not in run.stderr
