"""A suite catches data that training must not see, and says what it found."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from holdfast.engine.quality import ExpectationsNotMet, evaluate, validate
from holdfast.errors import ConfigError

SUITE = Path(__file__).parents[3] / "include" / "expectations" / "market-data.json"
pytest.importorskip("great_expectations")


def market(rows: int = 4200, **changes: list[float | None]) -> pa.Table:
    """A table that meets the example's suite, with columns replaced."""
    columns = {"date": pa.array([date(1999, 1, 1) + timedelta(days=day) for day in range(rows)])}
    for expectation in json.loads(SUITE.read_text())["expectations"]:
        for name in expectation["kwargs"].get("column_list", [])[1:]:
            values = changes.get(name, [10.0 if name not in ("loss_5d", "return_1d", "weekday") else 0.0] * rows)
            columns[name] = pa.array(values, type=pa.float64())
    return pa.table(columns)


def test_good_data_meets_the_suite() -> None:
    report = validate(market(), SUITE)
    assert report.ok
    assert (report.suite, report.rows, report.checked) == ("market-data", 4200, 16)


def test_bad_data_is_named_column_by_column() -> None:
    table = market(range_1d=[-1.0] + [10.0] * 4199, next_day_volatility=[None] * 4200)
    with pytest.raises(ExpectationsNotMet) as refused:
        validate(table, SUITE)
    assert {one.column for one in refused.value.report.unmet} == {"range_1d", "next_day_volatility"}
    assert "range_1d" in str(refused.value)
    assert "unexpected_count=1" in str(refused.value)


def test_too_few_rows_and_a_missing_column_are_caught() -> None:
    unmet = {one.expectation for one in evaluate(market(10).drop_columns(["vix"]), SUITE).unmet}
    assert {"expect_table_row_count_to_be_between", "expect_table_columns_to_match_ordered_list"} <= unmet


def test_an_empty_suite_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"name": "empty", "expectations": []}')
    with pytest.raises(ExpectationsNotMet, match="no expectation"):
        validate(market(10), tmp_path / "empty.json")


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"expectations": [{"type": "expect_the_unexpected", "kwargs": {}}]}',
        '{"expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"colunm": "date"}}]}',
    ],
)
def test_a_suite_that_is_none_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(ConfigError) as refused:
        validate(market(10), tmp_path / "suite.json")
    assert "suite.json" in str(refused.value)
