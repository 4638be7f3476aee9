"""A whole drill as a newcomer runs it: the command line in a process of its own, against three emulated clouds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.engine.authority import Operation
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox
from holdfast.sandbox.scene import set_scene, train

pytestmark = [pytest.mark.sandbox, pytest.mark.alone, pytest.mark.timeout(900)]

GROUP = "market-risk"
PROGRAM = "from holdfast.cli.main import main; main()"
TOPOLOGY = Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml"


class Command:
    """The `holdfast` command with the environment of a sandbox, run in a folder of the test's own."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self.environ, self.folder = environ, folder

    def __call__(self, *words: str, timeout: float = 300, **changed: str | None) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **self.environ, **{k: v for k, v in changed.items() if v is not None}}
        for name in [k for k, v in changed.items() if v is None]:
            environ.pop(name, None)
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Runtime]]:
    """A sandbox of its own with its services, and a group at work in it."""
    box = Sandbox(tmp_path_factory.mktemp("stage"), topology=TOPOLOGY, owner_pid=os.getpid())
    box.up(timeout=120, agents=True)
    try:
        runtime = Runtime.from_environment(environ={**os.environ, **box.environment()})
        set_scene(runtime, GROUP)
        yield box, runtime
    finally:
        box.down()


@pytest.fixture
def holdfast(stage: tuple[Sandbox, Runtime], tmp_path: Path) -> Command:
    return Command(stage[0].environment(), tmp_path)


def epoch_of(runtime: Runtime) -> int:
    state = runtime.authority(GROUP).read(GROUP)
    assert state is not None
    return state.epoch


def refused(done: subprocess.CompletedProcess[str], code: int, word: str) -> None:
    """One clear message, the exit code, and no traceback."""
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("drill", "run", "meteor"), "site-outage"),
        (("drill", "run", "site-outage", "--group", "nope"), "market-risk"),
        (("failover", "run", "--group", "nope"), "market-risk"),
        (("failover", "run", "--target", "nope"), "gcp-europe-west1"),
        (("failover", "resume", "nope"), "no such plan"),
    ],
)
def test_an_unknown_name_is_bad_input(
    holdfast: Command, stage: tuple[Sandbox, Runtime], words: tuple[str, ...], word: str
) -> None:
    before = epoch_of(stage[1])
    refused(holdfast(*words), 2, word)
    assert epoch_of(stage[1]) == before
    assert list(holdfast.folder.iterdir()) == []


def test_a_missing_connection_is_named_and_nothing_is_changed(holdfast: Command) -> None:
    refused(holdfast("drill", "run", "site-outage", AIRFLOW_CONN_HOLDFAST_AWS=None), 2, "holdfast_aws")
    assert list(holdfast.folder.iterdir()) == []


def test_a_sandbox_that_is_down_is_told(holdfast: Command, tmp_path: Path) -> None:
    done = holdfast("drill", "run", "site-outage", HOLDFAST_STATE=str(tmp_path / "nowhere"))
    assert done.returncode != 0
    assert "holdfast sandbox up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bucket_that_is_not_there_stops_the_drill_before_anything(
    holdfast: Command, stage: tuple[Sandbox, Runtime], tmp_path: Path
) -> None:
    document: dict[str, Any] = yaml.safe_load(TOPOLOGY.read_text())
    document["sites"]["azure-westeurope"]["bucket"] = "not-there"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(document))
    before = epoch_of(stage[1])
    done = holdfast("drill", "run", "site-outage", "--topology", str(wrong))
    assert done.returncode != 0
    assert "not-there" in done.stderr
    assert "Traceback" not in done.stderr
    assert epoch_of(stage[1]) == before
    state = stage[1].authority(GROUP).read(GROUP)
    assert state is not None
    assert state.operation is None


@pytest.mark.parametrize("kind", ["drill", "failover"])
def test_a_drill_while_another_operation_runs_is_refused(
    holdfast: Command, stage: tuple[Sandbox, Runtime], kind: Any
) -> None:
    authority, now = stage[1].authority(GROUP), datetime.now(UTC)
    authority.claim(GROUP, Operation("other", kind, "test", now, now + timedelta(minutes=5)))
    try:
        refused(holdfast("drill", "run", "site-outage"), 3, f"a {kind} has this group")
        refused(holdfast("failover", "run", "--yes"), 3, f"a {kind} has this group")
        assert epoch_of(stage[1]) == 1
    finally:
        authority.release(GROUP, "other")


def passed(holdfast: Command, runtime: Runtime) -> dict[str, Any]:
    """Run a drill that must be green, and prove its evidence."""
    train(runtime, GROUP)  # the run of the scene may have ended while other tests ran
    done = holdfast("drill", "run", "site-outage", "--json", "--output", "evidence", timeout=400)
    assert done.returncode == 0, done.stderr + done.stdout
    assert holdfast("drill", "verify", "evidence").returncode == 0
    journal: dict[str, Any] = json.loads(done.stdout)
    assert json.loads((holdfast.folder / "evidence" / "journal.json").read_text()) == {
        k: v for k, v in journal.items() if k != "evidence"
    }
    return journal


def test_a_drill_proves_every_claim(holdfast: Command, stage: tuple[Sandbox, Runtime]) -> None:
    journal = passed(holdfast, stage[1])
    assert journal["status"] == "completed"
    assert journal["deviated"] is False
    assert journal["verdict"]["passed"] is True
    assert journal["stale_writes"]["accepted"] == 0
    assert journal["stale_writes"]["attempted"] >= 9
    assert journal["model"]["identical"] is True
    assert journal["service"]["answers_equal"] is True
    assert journal["epoch"]["after"] == journal["epoch"]["before"] + 1
    assert all(value is not None for value in journal["rto_seconds"].values())
    assert journal["rpo"]["training_steps"] is not None
    file = holdfast.folder / "evidence" / "journal.json"
    file.write_bytes(file.read_bytes().replace(b'"completed"', b'"Completed"', 1))
    assert holdfast("drill", "verify", "evidence").returncode == 1


@pytest.mark.slow
def test_back_by_a_switchover_and_a_drill_again(holdfast: Command, stage: tuple[Sandbox, Runtime]) -> None:
    runtime = stage[1]
    state = runtime.authority(GROUP).read(GROUP)
    assert state is not None
    if state.active_site == "aws-eu-west-1":
        passed(holdfast, runtime)
    refused(holdfast("drill", "run", "site-outage"), 3, "zone is hosted there")
    back = holdfast("failover", "run", "--verb", "switchover", "--yes", "--json")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["complete"] is True
    assert passed(holdfast, runtime)["plan"]["source"] == "aws-eu-west-1"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_is_ended_early_leaves_no_fault(
    holdfast: Command, stage: tuple[Sandbox, Runtime], number: signal.Signals
) -> None:
    box, runtime = stage
    state = runtime.authority(GROUP).read(GROUP)
    assert state is not None
    if state.active_site != "aws-eu-west-1":
        assert holdfast("failover", "run", "--verb", "switchover", "--yes").returncode == 0
    train(runtime, GROUP)
    before = epoch_of(runtime)
    log = holdfast.folder / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "drill", "run", "site-outage", "--output", "evidence"],
            env={**os.environ, **holdfast.environ},
            cwd=holdfast.folder,
            stderr=errors,
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + 120
        while "✓ inject" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(timeout=120)
    if number is signal.SIGKILL:
        state = runtime.authority(GROUP).read(GROUP)
        assert state is not None
        assert state.operation is not None
        closed = holdfast("drill", "close", state.operation.plan_id, "--output", "evidence")
        assert closed.returncode == 1, closed.stderr
    journal = json.loads((holdfast.folder / "evidence" / "journal.json").read_text())
    assert journal["status"] == "interrupted"
    assert journal["rollback"]["fault_lifted"] is True
    assert journal["verdict"]["passed"] is not True
    assert box.status().site("aws-eu-west-1").mode == "up"
    state = runtime.authority(GROUP).read(GROUP)
    assert state is not None
    assert (state.epoch, state.operation) == (before, None)
