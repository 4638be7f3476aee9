"""What a backend says it can do is what it was seen to do, and the documentation says the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.engine.objectstore import ObjectStore
from holdfast.engine.objectstore.probe import capabilities_of, measure
from holdfast.engine.objectstore.table import markdown
from holdfast.sandbox.capabilities import measure_all, page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "object-store-capabilities.md"


def test_what_a_backend_says_is_what_was_measured(store: ObjectStore) -> None:
    measurements = measure(store, folder="probe")
    print(markdown({store.name: measurements}))
    said = asdict(store.capabilities())
    seen = asdict(capabilities_of(said["backend"], measurements))
    claimed = {name: value for name, value in said.items() if value is not None and name not in ("backend", "notes")}
    assert {name: seen[name] for name in claimed} == claimed
    assert list(store.list()) == [], "the probe cleans up"


def test_the_documented_table_is_the_measured_one(sandbox: Any, tmp_path: Path) -> None:
    measured = page(measure_all(ROOT / "include" / "holdfast.yaml", sandbox.environment(), tmp_path))
    assert PAGE.read_text(encoding="utf-8") == measured, (
        f"{PAGE.relative_to(ROOT)} is not what was measured; run "
        "`python -m holdfast.sandbox.capabilities docs/reference/object-store-capabilities.md`"
    )
