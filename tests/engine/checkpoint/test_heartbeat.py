"""The heartbeat is JSON for every reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.checkpoint.heartbeat import Heartbeat, HeartbeatObject
from holdfast.engine.objectstore import memory_store


def refuse(constant: str) -> None:
    raise AssertionError(f"no JSON: {constant}")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_null(tmp_path: Path, loss: float) -> None:
    store = memory_store()
    for path in (tmp_path / "heartbeat.json", HeartbeatObject(store, "heartbeat.json")):
        Heartbeat(path, FakeClock(), run="r").write(loss=loss, step=3)
    for data in ((tmp_path / "heartbeat.json").read_bytes(), store.get("heartbeat.json")):
        found = json.loads(data, parse_constant=refuse)
        assert (found["run"], found["step"], found["loss"]) == ("r", 3, None)
