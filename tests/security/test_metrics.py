"""Metrics: the few that go to Airflow's own, and that no secret can be in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.triggers.gauges import tell
from security_world import Canary, leaks

PACKAGE = Path(holdfast.__file__).parent
METRICS = re.compile(r"observability|statsd|opentelemetry|prometheus", re.I)
#: Where something is measured, and by which tags: names of the topology and of runs, nothing else.
TAGS = {
    "triggers/gauges.py": {"run", "site", "standby"},
    "operators/training.py": {"group", "job"},
    "operators/recovery.py": {"group", "job"},
}
SECRET = Canary.of("metrics")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{one.name}" for one in node.names)


def test_metrics_are_made_where_the_security_page_says_and_nowhere_else() -> None:
    assert {name for name, tree in trees() if any(map(METRICS.search, imported(tree)))} == set(TAGS)


def test_what_a_heartbeat_says_becomes_numbers_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk._shared.observability.metrics import stats

    told: list[tuple[str, object, Mapping[str, Any]]] = []

    class Backend:
        def gauge(self, stat: str, value: object, *, tags: Mapping[str, Any], **_: Any) -> None:
            told.append((stat, value, tags))

    monkeypatch.setattr(stats, "_backend", Backend())
    text = SECRET.text
    at_risk = {"steps": 20, "seconds": text, "detail": text}
    heartbeat = {
        "step": 120,
        "environment": {"PASSWORD": text},
        "saving": {"stall_seconds": text},
        "replicas": {"gcp": {"work_at_risk": at_risk, "error": text}},
    }
    tell(heartbeat, run="desk-job", site="aws")
    assert [value for _, value, _ in told] == [120.0, 20.0]
    assert {tag for _, _, tags in told for tag in tags} <= TAGS["triggers/gauges.py"]
    assert not leaks([SECRET], {"metrics": repr(told).encode()})


@pytest.mark.parametrize("file", sorted(set(TAGS) - {"triggers/gauges.py"}))
def test_a_counter_is_tagged_with_names_alone(file: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "Stats"
    ]
    assert calls
    for call in calls:
        (tags,) = [one.value for one in call.keywords if one.arg == "tags"]
        assert isinstance(tags, ast.Dict)
        assert {key.value for key in tags.keys if isinstance(key, ast.Constant)} == TAGS[file]
        assert len(tags.keys) == len(TAGS[file])
