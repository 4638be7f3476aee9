"""Topologies of folders with policies beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from folders import make_folders
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.runtime import Runtime


def with_policy(folder: Path, text: str | None, *, name: str = "policies/eu.cedar", **datasets: Any) -> Path:
    """A topology of three folders whose dataset `prices` has a class with this policy; none: the file is not made."""
    file = make_folders(folder, **(datasets or {"prices": {"residency": "eu-only"}}))
    document = yaml.safe_load(file.read_text())
    document["residency"] = {"eu-only": {"policy": name}}
    file.write_text(yaml.safe_dump(document))
    if text is not None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return file


def runtime_of(topology: Path, state: Path | str, **kwargs: Any) -> Runtime:
    """The runtime of a machine whose state lies there."""
    environ = {**os.environ, "HOLDFAST_STATE": str(state)}
    return Runtime(
        load_topology(topology, environ),
        EnvironmentConnections({}),
        access=lambda _name, _site: StoreAccess(),
        environ=environ,
        **kwargs,
    )
