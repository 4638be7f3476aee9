"""YAML and JSON that are more than data: tags that make objects, keys that are there twice, aliases without an end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from folders import make_folders
from holdfast.engine.config import load_topology
from holdfast.engine.cost.prices import read_price_list
from holdfast.errors import ConfigError

TAGS = [
    "!!python/object/apply:os.system ['touch {file}']",
    "!!python/object/new:os.system ['touch {file}']",
    "!!python/object:subprocess.Popen {{args: ['touch', '{file}']}}",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!include /etc/passwd",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("kind", ["topology", "prices"])
def test_a_tag_makes_no_object(tag: str, kind: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    value = tag.format(file=made)
    if kind == "topology":
        file = make_folders(tmp_path)
        file.write_text(f"{file.read_text()}\nevil: {value}\n")
    else:
        file = tmp_path / "prices.yaml"
        file.write_text(f"evil: {value}\n")
    with pytest.raises(ConfigError, match="constructor for the tag"):
        load_topology(file, os.environ) if kind == "topology" else read_price_list(file)
    assert not made.exists()


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Else who reads the first and who reads the last see two topologies."""
    file = make_folders(tmp_path)
    file.write_text(f"{file.read_text()}\nresidency: {{}}\n")
    with pytest.raises(ConfigError, match="residency"):
        load_topology(file, os.environ)
