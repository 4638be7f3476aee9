"""`holdfast sandbox` as somebody types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.sandbox import app
from holdfast.sandbox import Sandbox

ONE_SITE = """
sites:
  gcp-here: {cloud: gcp, region: europe-west1, jurisdiction: EU, connection: here, bucket: the-bucket}
"""


class Command:
    """Runs `holdfast sandbox` against one state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--state", str(self.state), "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout or done.stderr)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "topology.yaml").write_text(ONE_SITE)
    run = Command(folder / "state")
    run("up", "--topology", str(folder / "topology.yaml"), "--no-agents")
    yield run
    Sandbox(run.state).down()


def test_status_shows_every_part_and_site(command: Command) -> None:
    found = command("status")
    assert found["up"]
    names = {"store.gcp-here", "proxy.gcp-here", "trails", "dns-api", "resolver"}
    assert {part["name"] for part in found["parts"]} == names
    assert all(part["healthy"] and part["pid"] for part in found["parts"])
    assert found["sites"][0]["mode"] == "up"


def test_a_fault_is_set_and_lifted(command: Command) -> None:
    assert command("fault", "gcp-here", "latency", "--ms", "5")["mode"] == "latency"
    assert command("fault", "gcp-here", "down", "--listener", "store")["mode"] == "mixed"
    assert command("fault", "gcp-here", "up")["mode"] == "up"


def test_trails_are_delivered_on_demand(command: Command) -> None:
    (site,) = command("trails", "deliver")
    assert (site["site"], site["cloud"], site["error"]) == ("gcp-here", "gcp", None)


def test_the_environment_is_printed_for_a_shell_and_a_program(command: Command) -> None:
    environ = command("env", "gcp-here")
    assert environ["HOLDFAST_STATE"] == str(command.state)
    done = CliRunner().invoke(app, ["env", "--state", str(command.state)])
    assert "HOLDFAST_RESOLVER=127.0.0.1:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fault", "atlantis", "down"), "no such site"),
        (("fault", "gcp-here", "sideways"), "no such fault"),
        (("fault", "gcp-here", "latency"), "needs milliseconds"),
        (("fault", "gcp-here", "down", "--direction", "inwards"), "no such direction"),
        (("fault", "gcp-here", "down", "--listener", "door"), "no such listener"),
        (("env", "atlantis"), "no such site"),
        (("up", "--topology", "/nowhere.yaml"), "cannot be read"),
    ],
)
def test_bad_input_is_one_error_and_exit_2(command: Command, arguments: tuple[str, ...], said: str) -> None:
    assert said in command(*arguments, code=2)["what"]
    assert command("status")["sites"][0]["mode"] == "up"


def test_a_sandbox_that_is_down_is_exit_1(tmp_path: Path) -> None:
    down = Command(tmp_path / "state")
    assert not down("status", code=1)["up"]
    assert "never brought up" in down("fault", "gcp-here", "down", code=1)["what"]
    assert down("down")["up"] is False
    assert not (tmp_path / "state").exists()


def test_plain_text_is_for_people(command: Command) -> None:
    done = CliRunner().invoke(app, ["status", "--state", str(command.state)])
    assert done.exit_code == 0
    assert "store.gcp-here" in done.stdout
    failed = CliRunner().invoke(app, ["fault", "atlantis", "down", "--state", str(command.state)])
    assert failed.exit_code == 2
    assert failed.stderr.startswith("holdfast sandbox: ")
    assert "Traceback" not in failed.output
