"""Jinja in what a run is given: a template gives a value, and the value is never a template again."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from airflow.sdk import BaseOperator

import holdfast.operators
from holdfast.operators.recovery import FailOverOperator

EVIL = "{{ var.value.secret }}{{ 7 * 191 }}{% raw %}"


def operators() -> list[type[BaseOperator]]:
    found: dict[str, type[BaseOperator]] = {}
    for module in pkgutil.iter_modules(holdfast.operators.__path__):
        for value in vars(importlib.import_module(f"holdfast.operators.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, BaseOperator) and value.__module__.startswith("holdfast."):
                found[value.__name__] = value
    return list(found.values())


@pytest.mark.parametrize("operator", operators(), ids=lambda one: one.__name__)
def test_no_field_is_read_from_a_file_by_its_name(operator: type[BaseOperator]) -> None:
    """With ``template_ext`` a value such as ``../../secret.sql`` would be read from the disk."""
    assert not tuple(operator.template_ext)
    assert "topology_path" not in operator.template_fields


def test_a_value_of_a_run_is_not_rendered_again() -> None:
    operator = FailOverOperator(task_id="t", group="{{ params.group }}", plan_id="{{ params.plan }}")
    operator.render_template_fields({"params": {"group": EVIL, "plan": EVIL}})
    assert (operator.group, operator.plan_id) == (EVIL, EVIL)
