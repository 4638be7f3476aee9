"""What the suites of thousands of operations share."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from holdfast.engine.vault import history, vault
from vault_machine import DRAWS


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that would go side by side go one after the other: for a store in memory threads are all cost."""

    def each(action: Callable[[Any], Any], things: Iterable[Any], *, threads: int) -> list[Any]:
        return [action(thing) for thing in things]

    for module in (history, vault):
        monkeypatch.setattr(module, "each", each)


@pytest.fixture
def same_each_time(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, keys and where chunks go are drawn from a seed, so that a failure comes again."""
    monkeypatch.setattr(os, "urandom", DRAWS.randbytes)
    monkeypatch.setattr(random, "_urandom", DRAWS.randbytes)
