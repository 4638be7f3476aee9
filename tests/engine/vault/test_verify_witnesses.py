"""What a verification says of witnesses that cannot be asked, that know nothing, and that lag behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import BucketNotFound, StoreUnavailable
from holdfast.engine.vault.verify import VerifyReport, verify_vault
from vault_world import VaultWorld, some_files, write_tree


class Away(StoreDecorator):
    """A site that does not answer."""

    def list(self, *_args: Any, **_kwargs: Any) -> Any:
        raise StoreUnavailable("away", where=self.name)

    def put(self, *_args: Any, **_kwargs: Any) -> Any:
        raise StoreUnavailable("away", where=self.name)


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    write_tree(tmp_path / "source", some_files(count=2))
    return VaultWorld().make()


def verified(world: VaultWorld) -> VerifyReport:
    return verify_vault(world.open("reader"))


def take_away(world: VaultWorld, *names: str) -> None:
    world.witnesses.update({name: Away(world.witnesses[name]) for name in names})


def test_one_that_is_away_is_a_warning_while_another_answers(world: VaultWorld, tmp_path: Path) -> None:
    take_away(world, "witness-b")
    world.back_up(tmp_path / "source")
    report = verified(world)
    assert (report.is_good, report.exit_code, report.problems) == (True, 0, [])
    (warning,) = report.warnings
    assert "witness witness-b not reached, a rollback could not be checked against it" in warning


def test_one_whose_bucket_is_gone_is_more_than_a_warning(world: VaultWorld, tmp_path: Path) -> None:
    class Gone(Away):
        def list(self, *_args: Any, **_kwargs: Any) -> Any:
            raise BucketNotFound("no such bucket", where=self.name)

    world.back_up(tmp_path / "source")
    world.witnesses["witness-b"] = Gone(world.witnesses["witness-b"])
    report = verified(world)
    assert (report.is_good, report.exit_code, report.warnings) == (True, 1, [])
    assert "witness witness-b not reached" in report.degraded[0]


def test_when_none_answers_nothing_is_damaged_and_nothing_is_proved(world: VaultWorld, tmp_path: Path) -> None:
    world.back_up(tmp_path / "source")
    take_away(world, "witness-a", "witness-b")
    report = verified(world)
    assert (report.is_good, report.exit_code, report.problems, len(report.unknown)) == (False, 1, [], 2)


def test_one_that_lags_or_knows_nothing_is_told_of(world: VaultWorld, tmp_path: Path) -> None:
    kept = world.witnesses["witness-b"]
    take_away(world, "witness-b")
    world.back_up(tmp_path / "source")
    world.witnesses["witness-b"] = kept
    assert verified(world).warnings == [
        "witness witness-b knows entry 1, the newest is 2: that those between were removed would not show there"
    ]
    empty(kept)
    (warning,) = verified(world).warnings
    assert warning.startswith("witness witness-b knows nothing of this vault")
    assert verified(world).is_good
    world.back_up(tmp_path / "source")
    assert verified(world).warnings == []


def test_witnesses_that_all_lost_what_they_knew_are_a_finding(world: VaultWorld, tmp_path: Path) -> None:
    world.back_up(tmp_path / "source")
    for store in world.witnesses.values():
        empty(store)
    report = verified(world)
    assert report.exit_code == 4
    assert report.problems[0].startswith("no witness knows anything of this vault")


def empty(store: Any) -> None:
    for info in list(store.list()):
        store.delete(info.key)
