"""Every kind of compute that has settings has a hook that logs in to it."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from holdfast.engine.compute import opening
from holdfast.engine.config import Compute
from holdfast.hooks import compute

KINDS = sorted(set(get_args(Compute.model_fields["kind"].annotation)) - {"process"})


def test_every_kind_of_the_topology_has_a_backend_and_a_client() -> None:
    assert sorted(compute._CLIENTS) == sorted(opening._LEAVES) == KINDS
    for leaf in opening._LEAVES.values():
        assert callable(importlib.import_module(f"holdfast.engine.compute.{leaf}").open_backend)


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_is_made_by_the_kinds_own_hook(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = compute._CLIENTS[kind]
    found = getattr(importlib.import_module(f"holdfast.hooks.{module}"), name)
    assert list(inspect.signature(found).parameters) == ["site_name", "site"]
    asked: list[Any] = []
    monkeypatch.setattr(f"holdfast.hooks.{module}.{name}", lambda *which: asked.append(which) or "client")
    site: Any = SimpleNamespace(compute=SimpleNamespace(kind=kind))
    assert compute.compute_client("site-a", site) == "client"
    assert asked == [("site-a", site)]
