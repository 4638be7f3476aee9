"""Retention profiles are data: the shipped ones, and a firm's own beside its topology."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from audit_world import AuditWorld, FakeSource, event
from holdfast.engine.audit.retention import FILE, known_profiles, profiles_of, shipped_profiles
from holdfast.errors import ConfigError

HOUSE = "profiles:\n  house:\n    years: 7.5\n    worm: false\n    about: Ours\n    source: Handbook 3\n"


def test_the_shipped_profiles() -> None:
    found = {name: (one.years, one.worm) for name, one in shipped_profiles().items()}
    assert found == {
        "dora": (5, False),
        "fca": (6, False),
        "sec-204-2-g": (5, False),
        "sec-17a-4-f": (6, True),
        "gdpr": (1, False),
        "drill": (0, False),
    }
    assert all(one.name == name and one.source and one.about for name, one in shipped_profiles().items())


def test_an_export_keeps_to_a_profile_beside_its_topology(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(3)]))
    document = yaml.safe_load(world.topology.read_text())
    document["audit"]["retention"] = ["gdpr", "house"]
    world.topology.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="no such retention profile"):
        world.export()
    (world.topology.parent / FILE).write_text(HOUSE)
    done = world.export()
    assert done.manifest.retention.profiles == ("gdpr", "house")
    assert done.manifest.retention.until == world.clock.now() + 7.5 * timedelta(days=366)


def test_without_a_file_there_are_the_shipped_ones(tmp_path: Path) -> None:
    assert known_profiles(tmp_path / FILE) == shipped_profiles()
    assert [one.name for one in profiles_of(["fca", "dora"])] == ["fca", "dora"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HOUSE.replace("house", "gdpr"), "name of a shipped one; expected names of your own; found gdpr"),
        (HOUSE.replace("house", "../house"), "profiles"),
        (HOUSE.replace("7.5", "'7.5'"), "profiles.house.years: Input should be a valid number; found 7.5"),
        (HOUSE.replace("7.5", "-1"), "greater than or equal to 0"),
        (HOUSE.replace("7.5", ".inf"), "finite"),
        (HOUSE.replace("worm: false", "worm: nope"), "valid boolean"),
        (HOUSE.replace("worm", "wrom"), "wrom|worm"),
        (HOUSE + HOUSE.partition("\n")[2], "is there twice"),
        ("profiles: {}\n", "at least 1"),
        ("- house\n", "the whole file"),
        ("", "the whole file"),
        ("profiles: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("profiles: [\n", "expected the node content|expected"),
        ("x" * (1024 * 1024 + 1), "more than 1048576 bytes"),
        ("? [a]\n: 1\n", "unhashable|YAML"),
    ],
)
def test_a_file_that_is_wrong_is_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        known_profiles(tmp_path / FILE)
    assert str(tmp_path / FILE) in str(refused.value)
