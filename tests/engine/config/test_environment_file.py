"""Environment files: one format for shells and programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.config.environment_file import format_environment, parse_environment, read_environment_file
from holdfast.errors import ConfigError

values = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=("Cs",)))


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), values))
def test_what_is_written_is_read(environ: dict[str, str]) -> None:
    assert parse_environment(format_environment(environ, comment="any")) == environ


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    environ = {"A": 'it\'s "quoted" $HOME `x` \\ # no comment', "B": "", "C": '{"json": [1, "two"]}', "D": "ünï ☃"}
    file = tmp_path / "x.env"
    file.write_text(format_environment(environ))
    shown = subprocess.run(["sh", "-c", f"set -a; . {file}; env -0"], env={}, capture_output=True, check=True).stdout
    by_shell = dict(line.split("=", 1) for line in shown.decode().split("\0") if line)
    assert {name: by_shell[name] for name in environ} == environ == read_environment_file(file)


def test_comments_blank_lines_and_export_are_understood() -> None:
    assert parse_environment("# a\n\nexport A=1\nB='two words'\n") == {"A": "1", "B": "two words"}


@pytest.mark.parametrize("text", ["A", "1A=x", "A=two words", "A='open", "A B=c"])
def test_a_bad_line_is_named_without_its_value(text: str) -> None:
    with pytest.raises(ConfigError, match="line 2") as caught:
        parse_environment(f"GOOD=1\n{text}")
    assert "two words" not in str(caught.value)


def test_a_value_that_cannot_be_written_is_refused() -> None:
    for environ in ({"A": "two\nlines"}, {"not a name": "x"}):
        with pytest.raises(ConfigError):
            format_environment(environ)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_environment_file(tmp_path / "nowhere.env")
