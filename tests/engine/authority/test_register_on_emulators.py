"""The register and its commands on the emulated clouds, with their own conditional writes, behind fault proxies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.authority import app
from holdfast.engine.authority import EpochConflict, EpochState, NoMajority, RankedRegister
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox

TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
SITES = ("aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")

pytestmark = pytest.mark.sandbox


@pytest.fixture
def topology(sandbox_env: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """The sandbox's topology, with a group of this test's own."""
    document = yaml.safe_load(TOPOLOGY.read_text())
    for site in document["sites"].values():
        site["prefix"] = f"test-{uuid4().hex[:12]}"
    path = tmp_path / "holdfast.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def runtime(topology: Path) -> Runtime:
    return Runtime.from_environment(topology)


def register(runtime: Runtime, **options: float) -> RankedRegister:
    return RankedRegister(runtime.stores(SITES), holder="test", **options)


def advance(authority: RankedRegister, expected: int, site: str, plan: str) -> EpochState:
    return authority.advance("market-risk", expected_epoch=expected, active_site=site, plan_id=plan, reason="a test")


def test_what_one_commits_another_reads(runtime: Runtime) -> None:
    assert register(runtime).read("market-risk") is None
    state = advance(register(runtime), 0, SITES[0], "plan-1")
    assert register(runtime).read("market-risk") == state
    moved = advance(register(runtime), 1, SITES[1], "plan-2")
    assert register(runtime).read("market-risk") == moved
    assert advance(register(runtime), 1, SITES[1], "plan-2") == moved
    with pytest.raises(EpochConflict):
        advance(register(runtime), 1, SITES[2], "plan-3")


def test_contenders_never_share_an_epoch(runtime: Runtime) -> None:
    advance(register(runtime), 0, SITES[0], "plan-0")

    def contend(number: int) -> list[EpochState]:
        mine, won = register(runtime, budget_seconds=60.0), []
        for turn in range(3):
            current = mine.read("market-risk")
            with suppress(EpochConflict):
                won.append(advance(mine, current.epoch, SITES[number], f"plan-{number}-{turn}"))
        return won

    with ThreadPoolExecutor(3) as pool:
        epochs = [state.epoch for states in pool.map(contend, range(3)) for state in states]
    assert epochs
    assert len(epochs) == len(set(epochs))


@pytest.mark.parametrize("mode", ["down", "blackhole"])
def test_one_cloud_lost_leaves_a_majority_and_two_do_not(runtime: Runtime, sandbox: Sandbox, mode: str) -> None:
    advance(register(runtime), 0, SITES[0], "plan-1")
    sandbox.fault(SITES[0], mode)
    moved = advance(register(runtime), 1, SITES[1], "plan-2")
    assert register(runtime).read("market-risk") == moved
    sandbox.fault(SITES[2], mode)
    with pytest.raises(NoMajority):
        register(runtime, budget_seconds=2.0).read("market-risk")
    sandbox.clear()
    assert register(runtime).read("market-risk") == moved


def test_the_commands_initialise_once_and_show_what_is_committed(topology: Path) -> None:
    runner = CliRunner()

    def run(*arguments: str) -> tuple[int, dict]:
        result = runner.invoke(app, [*arguments, "--topology", str(topology), "--json"])
        return result.exit_code, json.loads(result.stdout)

    code, shown = run("show", "market-risk")
    assert (code, shown["state"], shown["majority"]) == (0, None, True)
    assert run("init", "market-risk")[1]["result"] == "initialised"
    code, again = run("init", "market-risk")
    assert (code, again["result"]) == (0, "was initialised before; nothing was changed")
    code, shown = run("show", "market-risk")
    assert (shown["state"]["epoch"], shown["state"]["active_site"]) == (1, SITES[0])
    assert sum(acceptor["reachable"] for acceptor in shown["acceptors"]) == 3
    code, error = run("show", "no-such-group")
    assert (code, error["error"]) == (2, "UnknownName")
    text = runner.invoke(app, ["show", "market-risk", "--topology", str(topology)])
    assert "epoch 1, active aws-eu-west-1" in text.stdout


def test_show_without_a_majority_shows_who_answers_and_exits_4(topology: Path, sandbox: Sandbox) -> None:
    runner = CliRunner()
    runner.invoke(app, ["init", "market-risk", "--topology", str(topology)])
    sandbox.fault(SITES[0], "down")
    sandbox.fault(SITES[1], "down")
    result = runner.invoke(app, ["show", "market-risk", "--topology", str(topology), "--json"])
    assert result.exit_code == 4
    shown = json.loads(result.stdout)
    assert shown["majority"] is False
    assert [acceptor["reachable"] for acceptor in shown["acceptors"]] == [False, False, True]
