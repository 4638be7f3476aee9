"""Run a Great Expectations suite over an Arrow table, in this process, with nothing stored and nothing sent."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Unmet:
    """One expectation the data does not meet."""

    expectation: str
    column: str | None
    found: str


@dataclass(frozen=True, slots=True)
class Assertion:
    """One expectation that was checked."""

    expectation: str
    column: str | None
    success: bool


@dataclass(frozen=True, slots=True)
class ExpectationReport:
    """What a suite said of a table."""

    suite: str
    rows: int
    checked: int
    unmet: tuple[Unmet, ...]
    #: All that was checked, in the suite's order.
    assertions: tuple[Assertion, ...] = ()

    @property
    def ok(self) -> bool:
        """True only when something was checked and all of it holds: an empty suite proves nothing."""
        return self.checked > 0 and not self.unmet


class ExpectationsNotMet(HoldfastError):
    """The data is not what the suite expects; nothing should be trained on it."""

    def __init__(self, what: str, *, report: ExpectationReport, where: str, expected: str, found: str) -> None:
        super().__init__(
            what,
            where=where,
            expected=expected,
            found=found,
            fix="Correct the data at its origin and publish it anew, or change the suite on purpose",
        )
        self.report = report


def validate(table: pa.Table, suite_path: Path | str) -> ExpectationReport:
    """Check a table against a suite.

    Args:
        table: the dataset, e.g. from `holdfast.engine.snapshot.open_table`.
        suite_path: a suite as Great Expectations 1.x writes it: ``{"name": …, "expectations": [{"type", "kwargs"}]}``.

    Raises:
        ExpectationsNotMet: the data breaks it; the message names each expectation, the error has the report.
        ConfigError: the suite cannot be read, or Great Expectations is not installed.
    """
    return require_met(evaluate(table, suite_path))


def require_met(report: ExpectationReport) -> ExpectationReport:
    """The report, when all of it holds. Raises ExpectationsNotMet."""
    if not report.ok:
        found = "; ".join(f"{one.column or 'table'}: {one.expectation}: {one.found}" for one in report.unmet)
        raise ExpectationsNotMet(
            "the data is not what training expects",
            report=report,
            where=report.suite,
            expected=f"all of {report.checked} expectations over {report.rows} rows to hold",
            found=found or "no expectation to check",
        )
    return report


def evaluate(table: pa.Table, suite_path: Path | str) -> ExpectationReport:
    """The report of a suite over a table, met or not. Raises ConfigError as `validate`."""
    path = Path(suite_path)
    document = _read(path)
    gx = _great_expectations()
    frame = table.to_pandas(types_mapper=None)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("snapshot")
        .add_dataframe_asset("table")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    try:
        suite = gx.ExpectationSuite(name=document.get("name", path.stem), expectations=document["expectations"])
    except Exception as error:
        # Great Expectations and the pydantic inside it raise many kinds for a wrong suite; all mean the file.
        raise _wrong(path, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    # It drops what it does not understand with a log line; a check that silently is not made is worse than none.
    if len(suite.expectations) != len(document["expectations"]):
        understood = {one.expectation_type for one in suite.expectations}
        lost = [one for one in document["expectations"] if _type(one) not in understood] or document["expectations"]
        raise _wrong(path, f"not understood: {', '.join(_type(one) for one in lost)}")
    results = batch.validate(suite).results
    unmet = tuple(_unmet(one) for one in results if not one.success)
    checked = tuple(
        Assertion(one.expectation_config.type, one.expectation_config.kwargs.get("column"), bool(one.success))
        for one in results
    )
    return ExpectationReport(str(suite.name), table.num_rows, len(results), unmet, checked)


def _unmet(result: Any) -> Unmet:
    configuration = result.expectation_config
    failed = result.exception_info or {}
    raised = failed.get("exception_message") if failed.get("raised_exception") else None
    facts = result.result or {}
    names = ("observed_value", "unexpected_count", "unexpected_percent", "partial_unexpected_list")
    found = raised or ", ".join(f"{name}={_short(facts[name])}" for name in names if facts.get(name) not in (None, []))
    return Unmet(configuration.type, configuration.kwargs.get("column"), found or "not met")


def _type(expectation: Any) -> str:
    return str(expectation.get("type")) if isinstance(expectation, dict) else _short(expectation)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(path, str(error)) from None
    if not isinstance(document, dict) or not isinstance(document.get("expectations"), list):
        raise _wrong(path, "no list of expectations")
    return document


def _wrong(path: Path, found: str) -> ConfigError:
    return ConfigError(
        "the expectation suite cannot be read",
        where=str(path),
        expected='{"name": …, "expectations": [{"type": …, "kwargs": …}]}',
        found=found,
    )


def _great_expectations() -> Any:
    # It would send usage statistics; a check of a bank's data sends nothing anywhere.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    try:
        import great_expectations
    except ImportError as error:
        raise ConfigError(
            "Great Expectations is not installed here",
            where="great_expectations",
            expected="the extra `airflow`",
            found=str(error),
            fix="pip install 'holdfast[airflow]', or validate where Airflow runs",
        ) from None
    return great_expectations
