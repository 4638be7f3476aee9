"""What a site's service answers, and when it refuses. The clock moves only when told; no thread runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from holdfast.clock import FakeClock
from holdfast.engine.agent.agent import SiteAgent
from holdfast.engine.agent.model import ModelVersion
from holdfast.engine.agent.predictor import ModelUnusable, load_predictor
from holdfast.engine.agent.service import build_app
from holdfast.engine.authority import MemoryEpochStore
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.memory import memory_store
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import EpochUnknownHere
from holdfast.errors import ConfigError, HoldfastError, UnknownName

TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"
T_FENCE = 2.0


class Sum:
    """A model of two features."""

    features = 2

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias
        self.during = lambda: None

    def predict(self, instances: Sequence[Sequence[float]]) -> list[float]:
        self.during()
        return [sum(row) + self.bias for row in instances]


class Source:
    """Models that are published when the test says so, per epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, ModelVersion | HoldfastError] = {}
        self.loads = 0

    def newest(self, epoch: int) -> ModelVersion | None:
        found = self.by_epoch.get(epoch)
        if isinstance(found, HoldfastError):
            raise found
        return found

    def files(self, version: ModelVersion) -> Mapping[str, bytes]:
        self.loads += 1
        return {"sum": version.digest.encode()}


class World:
    def __init__(self) -> None:
        hosts = {f"HOLDFAST_SERVICE_{s.upper().replace('-', '_')}": "http://127.0.0.1:1" for s in (AWS, GCP, AZURE)}
        ports = {f"HOLDFAST_SERVICE_PORT_{s.upper().replace('-', '_')}": "1" for s in (AWS, GCP, AZURE)}
        environ = {"HOLDFAST_STATE": "unused", "HOLDFAST_RESOLVER": "127.0.0.1:1", **hosts, **ports}
        self.topology = load_topology(TOPOLOGY, environ)
        self.clock = FakeClock()
        self.epochs = MemoryEpochStore(clock=self.clock)
        self.source = Source()
        self.model = Sum()
        self.move(0, AWS)
        self.source.by_epoch[1] = ModelVersion("m", "snapshot-1", "blake3:1")

    def move(self, expected: int, site: str) -> None:
        self.epochs.advance("market-risk", expected_epoch=expected, active_site=site, plan_id=f"p{expected}", reason="")

    def agent(self, site: str = AWS, **options: object) -> SiteAgent:
        runtime = Runtime(self.topology, EnvironmentConnections({}), clock=self.clock, holder="test")
        stores = {name: memory_store(name) for name in self.topology.sites}
        return SiteAgent(
            runtime,
            site,
            stores=stores,
            epochs=lambda _: self.epochs,
            model_source=self.source,
            loaders={"sum": lambda _: self.model},
            **options,
        )


@pytest.fixture
def world() -> World:
    return World()


def ask(agent: SiteAgent, instances: object = ((1, 2), (3, 4))):
    return TestClient(build_app(agent)).post("/predict", json={"instances": instances})


def test_the_active_site_answers_and_says_in_which_epoch(world: World) -> None:
    agent = world.agent()
    agent.renew()
    answer = ask(agent)
    assert answer.status_code == 200
    assert answer.json() == {"predictions": [3.0, 7.0], "epoch": 1, "site": AWS, "model": "blake3:1"}
    health = TestClient(build_app(agent)).get("/health")
    assert health.status_code == 200
    body = health.json()
    assert (body["role"], body["epoch"], body["fenced"], body["model"]["digest"]) == ("active", 1, False, "blake3:1")


def test_a_standby_is_healthy_holds_the_model_and_refuses(world: World) -> None:
    agent = world.agent(GCP)
    agent.renew()
    answer = ask(agent)
    assert answer.status_code == 503
    assert answer.json()["refused"] == f"{AWS} is active in epoch 1"
    health = TestClient(build_app(agent)).get("/health")
    assert (health.status_code, health.json()["role"]) == (200, "standby")
    assert health.json()["model"]["digest"] == "blake3:1"


def test_a_lease_that_ran_out_refuses_at_once_until_a_majority_is_read_again(world: World) -> None:
    agent = world.agent()
    agent.renew()
    world.clock.advance(T_FENCE)  # the process was stopped; nothing ran meanwhile
    answer = ask(agent)
    assert answer.status_code == 503
    assert "no majority read for 2 s" in answer.json()["refused"]
    assert answer.json()["fenced"] is True
    assert TestClient(build_app(agent)).get("/health").status_code == 503
    agent.renew()
    assert ask(agent).status_code == 200


def test_a_process_stopped_while_it_computes_does_not_answer(world: World) -> None:
    agent = world.agent()
    agent.renew()
    world.model.during = lambda: world.clock.advance(T_FENCE)
    assert ask(agent).status_code == 503


def test_an_answer_computed_across_a_change_of_epoch_is_not_given(world: World) -> None:
    agent = world.agent()
    agent.renew()

    def promoted() -> None:
        world.move(1, GCP)
        agent.renew()

    world.model.during = promoted
    assert ask(agent).status_code == 503


def test_no_majority_refuses(world: World) -> None:
    agent = world.agent()
    world.epochs.available = False
    agent.renew()
    assert ask(agent).status_code == 503
    assert TestClient(build_app(agent)).get("/health").json()["role"] == "unknown"


def test_a_promoted_site_answers_once_its_epoch_has_a_model(world: World) -> None:
    agent = world.agent(GCP)
    agent.renew()
    world.source.by_epoch[2] = EpochUnknownHere("no fork record of epoch 2")
    world.move(1, GCP)
    agent.renew()
    answer = ask(agent)
    assert answer.status_code == 503
    assert "no model for epoch 2: no fork record of epoch 2" in answer.json()["refused"]
    world.source.by_epoch[2] = world.source.by_epoch[1]
    agent.renew()
    answer = ask(agent)
    assert (answer.status_code, answer.json()["epoch"], answer.json()["model"]) == (200, 2, "blake3:1")
    assert world.source.loads == 1, "the standby had it loaded"


def test_without_a_model_nothing_is_answered(world: World) -> None:
    world.source.by_epoch.clear()
    agent = world.agent()
    agent.renew()
    answer = ask(agent)
    assert answer.status_code == 503
    assert "no model for epoch 1: none is published here" in answer.json()["refused"]


def test_a_newer_snapshot_is_taken_up(world: World) -> None:
    agent = world.agent()
    agent.renew()
    world.source.by_epoch[1] = ModelVersion("m", "snapshot-2", "blake3:2")
    agent.renew()
    assert ask(agent).json()["model"] == "blake3:1", "not looked for at every turn"
    world.clock.advance(1)
    agent.renew()
    world.clock.advance(1)
    agent.renew()
    assert ask(agent).json()["model"] == "blake3:2"


def test_a_nudge_looks_at_once(world: World) -> None:
    agent = world.agent()
    agent.renew()
    world.source.by_epoch[1] = ModelVersion("m", "snapshot-2", "blake3:2")
    assert TestClient(build_app(agent)).post("/refresh").status_code == 202
    agent.renew()
    assert ask(agent).json()["model"] == "blake3:2"


def test_a_nudge_from_elsewhere_is_refused(world: World) -> None:
    client = TestClient(build_app(world.agent()), client=("192.0.2.7", 4711))
    assert client.post("/refresh").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"instances": []}',
        b'{"instances": [1]}',
        b'{"instances": [["a"]]}',
        b'{"instances": [[true, false]]}',
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[NaN, 1]]}',
        b"\xff\xfe",
    ],
)
def test_a_request_that_does_not_fit_is_told_what_would(world: World, body: bytes) -> None:
    agent = world.agent()
    agent.renew()
    answer = TestClient(build_app(agent)).post("/predict", content=body)
    assert answer.status_code == 400
    assert answer.json()["expected"]


def test_epoch_tells_the_newest_epoch_read(world: World) -> None:
    agent = world.agent(AZURE)
    agent.renew()
    answer = TestClient(build_app(agent)).get("/epoch").json()
    assert (answer["epoch"], answer["role"], answer["group"]) == (1, "witness", "market-risk")


def test_unknown_names_are_refused(world: World) -> None:
    with pytest.raises(UnknownName):
        world.agent("mars-north-1")
    with pytest.raises(UnknownName):
        world.agent(service="oracle")


def test_a_site_of_no_group_has_no_agent(world: World) -> None:
    group = world.topology.groups["market-risk"]
    sites = {**world.topology.sites, "spare-1": world.topology.sites[AWS]}
    world.topology = world.topology.model_copy(update={"sites": sites, "groups": {"market-risk": group}})
    with pytest.raises(ConfigError, match="in no group"):
        world.agent("spare-1")


def test_what_no_loader_knows_is_unusable() -> None:
    with pytest.raises(ModelUnusable, match=r"model\.ubj"):
        load_predictor({"weights.pt": b""})


@pytest.mark.parametrize("body", [b"", b"no model", b"{}"])
def test_a_broken_model_is_said_to_be_broken(body: bytes) -> None:
    with pytest.raises(ModelUnusable, match=r"model\.ubj"):
        load_predictor({"model.ubj": body})


@pytest.mark.parametrize("names", [b"{}", b"[1]", b"not json"])
def test_feature_names_that_cannot_be_read_are_refused(names: bytes) -> None:
    from holdfast.engine.agent.predictor import feature_names

    with pytest.raises(ModelUnusable, match=r"features\.json"):
        feature_names({"features.json": names})
