"""What is packed for a container comes out of it whole, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from holdfast.engine.compute import JobNotStarted
from holdfast.engine.compute.container import PACKED, main, packed_environment, unpacked
from holdfast.errors import ConfigError

LIMITS = {"value_limit": 512, "entry_limit": 100, "where": "site-a"}


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    file = tmp_path / "topology.yaml"
    file.write_text("sites: {} # ü\n", encoding="utf-8")
    return file


def noise(length: int) -> str:
    """Text that does not compress well."""
    import hashlib

    return "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(length // 64))


def test_every_variable_word_and_line_arrives(topology: Path, tmp_path: Path) -> None:
    environment = {
        "SHORT": "1",
        "LONG": noise(4096),
        "TWO_LINES": "a\nb",
        "odd.name": "kept",
        "HOLDFAST_TOPOLOGY": str(topology),
    }
    command = [sys.executable, str(topology.parent / "train.py"), "/opt/tool", "--note", "ü " * 300]
    carried = packed_environment(environment, command, topology, **LIMITS)
    assert all(len(value) <= 512 and name.isidentifier() for name, value in carried.items())
    image = tmp_path / "image"
    image.mkdir()
    words, found = unpacked({**carried, "PATH": "/bin"}, image)
    assert words == [sys.executable, "train.py", "/opt/tool", "--note", "ü " * 300]
    assert {name: found[name] for name in ("SHORT", "LONG", "TWO_LINES", "odd.name", "PATH")} == {
        **{name: value for name, value in environment.items() if name != "HOLDFAST_TOPOLOGY"},
        "PATH": "/bin",
    }
    assert Path(found["HOLDFAST_TOPOLOGY"]).read_text(encoding="utf-8") == "sites: {} # ü\n"
    assert not [name for name in found if name.startswith(PACKED)]


def test_a_part_that_is_missing_starts_nothing(topology: Path) -> None:
    carried = packed_environment({"LONG": noise(4096)}, ["true"], topology, **LIMITS)
    for lost in [name for name in carried if name.startswith(PACKED)]:
        rest = {name: value for name, value in carried.items() if name != lost}
        with pytest.raises(ConfigError, match="cannot be read"):
            main(rest, lambda *_: pytest.fail("it became a command"))


def test_too_much_and_no_topology_are_refused(topology: Path, tmp_path: Path) -> None:
    with pytest.raises(JobNotStarted, match="too large"):
        packed_environment({"LONG": noise(200_000)}, ["true"], topology, **LIMITS)
    with pytest.raises(JobNotStarted, match="topology"):
        packed_environment({}, ["true"], tmp_path / "gone.yaml", **LIMITS)
