"""What ``make audit-dependencies`` makes of pip-audit's answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit_dependencies.py"
CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
BAD = {"name": "c", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("audit_dependencies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "audit_dependencies", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "code"),
    [([CLEAN], 0), ([CLEAN, SKIPPED], 7), ([SKIPPED], 7), ([], 7), ([CLEAN, BAD], 6), ([SKIPPED, BAD], 6)],
)
def test_what_was_not_looked_up_is_not_clean(script: Any, dependencies: list[Any], code: int) -> None:
    assert script.read({"dependencies": dependencies}).exit_code == code


def test_a_vulnerability_is_told_with_what_fixes_it(script: Any) -> None:
    assert script.read({"dependencies": [BAD]}).vulnerable == {"c 1": ["PYSEC-1 (fixed in 2)"]}
