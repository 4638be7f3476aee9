"""What an earlier version wrote is read, and written again the same; docs/formats/plan.md specifies it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from holdfast.engine.recovery.journal import StepRecord
from holdfast.engine.recovery.plan import Plan
from holdfast.engine.recovery.protection import ProtectionNote

GOLDEN = Path(__file__).parents[2] / "golden" / "plan"


@pytest.mark.parametrize(
    ("name", "model"), [("plan", Plan), ("step", StepRecord), ("protection", ProtectionNote)], ids=lambda v: str(v)
)
def test_a_golden_file_is_read_and_written_byte_for_byte(name: str, model: type[BaseModel]) -> None:
    data = (GOLDEN / f"{name}.json").read_bytes()
    assert model.model_validate_json(data).model_dump_json().encode() == data


def test_a_plans_hash_is_that_of_its_canonical_json() -> None:
    plan = Plan.model_validate_json((GOLDEN / "plan.json").read_bytes())
    assert plan.hash == "sha256:cf4fa5bffea5a422234d3da8fefbca324f6fb17bb635314479fabf4f1df3601f"
    assert plan.epoch == 4


def test_a_later_format_is_refused() -> None:
    data = (GOLDEN / "plan.json").read_text().replace("holdfast.plan/1", "holdfast.plan/2")
    with pytest.raises(ValidationError):
        Plan.model_validate_json(data)
