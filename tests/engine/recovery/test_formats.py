"""What an earlier version wrote is read, and written again the same; docs/formats/plan.md specifies it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from holdfast.engine.pipeline.vaults.approving import Approval
from holdfast.engine.recovery.journal import StepRecord
from holdfast.engine.recovery.plan import Plan
from holdfast.engine.recovery.protection import ProtectionNote

GOLDEN = Path(__file__).parents[2] / "golden" / "plan"


@pytest.mark.parametrize(
    ("name", "model"),
    [("plan", Plan), ("plan-2", Plan), ("step", StepRecord), ("protection", ProtectionNote)],
    ids=lambda v: str(v),
)
def test_a_golden_file_is_read_and_written_byte_for_byte(name: str, model: type[BaseModel]) -> None:
    data = (GOLDEN / f"{name}.json").read_bytes()
    assert model.model_validate_json(data).model_dump_json().encode() == data


def test_a_plans_hash_is_that_of_its_canonical_json() -> None:
    plan = Plan.model_validate_json((GOLDEN / "plan.json").read_bytes())
    assert plan.hash == "sha256:cf4fa5bffea5a422234d3da8fefbca324f6fb17bb635314479fabf4f1df3601f"
    assert plan.epoch == 4
    asked_for = Plan.model_validate_json((GOLDEN / "plan-2.json").read_bytes())
    assert asked_for.hash == "sha256:f0ce6cb92d5c5166a432b45290b2f21d635cada45c4826ca23d7b48832669bf4"


@pytest.mark.parametrize(
    ("name", "version"), [("plan", "3"), ("plan", "2"), ("plan-2", "1")], ids=["later", "nobody-in-2", "somebody-in-1"]
)
def test_another_format_is_refused(name: str, version: str) -> None:
    data = re.sub(r"holdfast\.plan/\d", f"holdfast.plan/{version}", (GOLDEN / f"{name}.json").read_text())
    with pytest.raises(ValidationError):
        Plan.model_validate_json(data)


def test_an_approval_is_read_and_written_byte_for_byte() -> None:
    data = (GOLDEN.parent / "approval" / "approval.json").read_bytes()
    assert Approval.model_validate_json(data).model_dump_json().encode() == data
