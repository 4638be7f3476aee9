"""A folder that is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine.audit.folders import new_folder
from holdfast.errors import ConfigError


class Killed(BaseException):
    pass


def test_it_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "new"
    with new_folder(target) as made:
        (made / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    assert [one.name for one in target.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("is_there", [False, True])
def test_what_is_refused_in_between_leaves_nothing(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "new"
    if is_there:
        target.mkdir()

    def half(made: Path) -> None:
        (made / "folder").mkdir()
        (made / "file").write_text("half")
        raise Killed

    with pytest.raises(Killed), new_folder(target) as made:
        half(made)
    assert list(tmp_path.rglob("*")) == ([target] if is_there else [])


def test_one_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    """It may be a mount, which cannot be replaced."""
    number = tmp_path.stat().st_ino
    with new_folder(tmp_path) as made:
        (made / "file").write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert tmp_path.stat().st_ino == number


@pytest.mark.parametrize("name", ["full", "full/file", "full/file/x"])
def test_it_touches_nothing_that_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError) as refused, new_folder(tmp_path / name):
        pass
    assert refused.value.where == str(tmp_path / name)
    assert (tmp_path / "full" / "file").read_text() == "mine"
    assert len(list(tmp_path.rglob("*"))) == 2
