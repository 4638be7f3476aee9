"""What a command imports before it begins: its own, not every other's."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from holdfast.cli.main import COMMANDS, app, main
from holdfast.engine import pipeline


def imported(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_of_itself(name: str) -> None:
    found = CliRunner().invoke(app, [name, "--help"])
    assert found.exit_code == 0, found.output
    assert f"Usage: holdfast {name}" in found.output


def test_the_help_lists_every_command() -> None:
    assert all(name in CliRunner().invoke(app, ["--help"]).output for name in COMMANDS)


def test_what_is_no_command_is_refused() -> None:
    assert CliRunner().invoke(app, ["output"]).exit_code == 2


def test_a_backup_does_not_wait_for_failovers_and_trainings() -> None:
    found = imported("import holdfast.cli.main, holdfast.cli.vault")
    rooms = ("recovery", "drill", "replication", "checkpoint", "compute", "health", "authority", "traffic")
    assert not [name for name in found if name.startswith(tuple(f"holdfast.engine.{room}" for room in rooms))]
    assert not found & {"torch", "pandas", "httpx", "boto3", "airflow"}


def test_who_interrupts_it_while_it_loads_sees_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["holdfast", "vault", "list"])
    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


@pytest.mark.parametrize("name", pipeline.__all__)
def test_every_name_of_the_pipeline_is_there(name: str) -> None:
    assert getattr(pipeline, name).__module__.startswith("holdfast.")


def test_another_name_of_the_pipeline_is_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        importlib.import_module("holdfast.engine.pipeline").nothing  # noqa: B018
