"""Names and texts from outside, in what a person reads: no escape sequences, no forged lines, no markup."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer.testing import CliRunner

from audit_world import AuditWorld, FakeSource, event
from holdfast.cli import output
from holdfast.cli.main import app
from holdfast.engine.audit.interface import Finding, State
from holdfast.errors import HoldfastError

#: Clears the screen, sets the title, hides text, goes back in the line, turns the direction, ends the line.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\rb\x08c\u202ed\u2028e\x00f"


def is_harmless(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("markup", [True, False])
def test_the_terminal_gets_no_control_characters(markup: bool) -> None:
    written = io.StringIO()
    console = output.console_of(written)
    console.print(HOSTILE, markup=markup)
    table = Table("name")
    table.add_row(HOSTILE)
    console.print(table)
    assert "a" in written.getvalue()
    assert is_harmless(written.getvalue())


def test_colours_of_our_own_still_work() -> None:
    written = io.StringIO()
    output.console_of(written, force_terminal=True, color_system="standard").print("[red]bad[/]")
    assert "\x1b[31m" in written.getvalue()


def test_an_error_cannot_forge_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    @output.reports_errors
    def command() -> None:
        raise HoldfastError("wrong", where=f"x\nholdfast: done\n{HOSTILE}")

    with pytest.raises(BaseException):  # noqa: B017 - typer's Exit
        command()
    told = capsys.readouterr().err
    assert is_harmless(told)
    assert not any(line.startswith("holdfast: done") for line in told.splitlines())


@pytest.mark.parametrize("text", [HOSTILE, "[/]", "[/red]", "[link=file:///etc/passwd]x[/link]", "[bold]x"])
def test_what_a_source_says_is_shown_as_it_is(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``holdfast audit coverage`` and ``verify`` over an export whose findings quote an object's name."""
    findings = {0: (Finding("odd", f"the object {text} is odd", text, State.GAP),)}
    world = AuditWorld(tmp_path, FakeSource([[[event(1)]]], findings=findings))
    folder = world.export().folder
    monkeypatch.setattr(output.console, "width", 500)  # whoever imported it first had a narrower one
    for words in (["coverage", str(folder)], ["verify", str(folder)]):
        done = run(["audit", *words, "--key", str(world.key)])
        assert done.exit_code == 6, done.stderr
        assert is_harmless(done.output)
        if text.startswith("["):
            assert text in done.stdout.replace("\n", "")


def run(words: Sequence[str]) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "500"})
