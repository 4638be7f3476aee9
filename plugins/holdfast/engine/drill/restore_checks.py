"""What a restore drill checks of the objects it restored, each read from where they lie now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.agent.predictor import ModelUnusable, load_predictor
from holdfast.engine.drill.golden import TOLERANCE, GoldenSet, Reference, largest_difference
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.engine.snapshot.tables import TableDamaged, TableFormat, TableState, live_data, table_states
from holdfast.engine.snapshot.threads import in_threads
from holdfast.engine.vault.content import SUFFIX, content_of, same_rows, same_schemas, schema_differences
from holdfast.engine.vault.creating import digest_at
from holdfast.engine.vault.tree import TreeRow
from holdfast.errors import ConfigError

_THREADS = 8
_MOST_NAMED = 100


@dataclass(frozen=True)
class Restored:
    """The objects of a backup below a prefix, as they should lie there.

    Args:
        prefix: with its final slash.
        rows: by path, size and digest of each.
    """

    store: ObjectStore
    prefix: str
    rows: Mapping[str, TreeRow]

    def read(self, path: str) -> bytes:
        return self.store.get(self.prefix + path)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        return self.store.get(self.prefix + path, byte_range=ByteRange(start, end))

    def content(self) -> dict[str, Any]:
        """Rows and schemas of its Parquet objects."""
        return content_of(((row.path, row.size_bytes) for row in self.rows.values()), self.read_range)


def verify_objects(restored: Restored) -> dict[str, Any]:
    """Read every object back and hash it; list what is there and should not be."""
    there = {info.key.removeprefix(restored.prefix) for info in restored.store.list(restored.prefix)}

    def right(row: TreeRow) -> tuple[TreeRow, bool]:
        return row, digest_at(restored.store, restored.prefix + row.path) == row.digest

    wanted = [row for row in restored.rows.values() if row.path in there]
    wrong, size = [], 0
    for row, ok in in_threads(right, wanted, threads=_THREADS, name="holdfast-drill-verify"):
        size += row.size_bytes
        if not ok:
            wrong.append(row.path)
    missing, extra = sorted(restored.rows.keys() - there), sorted(there - restored.rows.keys())
    return {
        "objects": len(wanted) - len(wrong),
        "bytes": size,
        "expected_objects": len(restored.rows),
        "wrong": sorted(wrong)[:_MOST_NAMED],
        "missing": missing[:_MOST_NAMED],
        "unexpected": extra[:_MOST_NAMED],
        "complete": not wrong and not missing and not extra,
    }


def compare_content(restored: Restored, recorded: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rows and schemas against what the backup recorded; ``None`` where there is no Parquet on either side."""
    if not any(path.endswith(SUFFIX) for path in restored.rows) and not (recorded or {}).get("objects"):
        return None
    found = restored.content()
    return {
        "recorded": dict(recorded) if recorded is not None else None,
        "found": found,
        "rows_equal": same_rows(recorded, found) if recorded is not None else None,
        "schema_equal": same_schemas(recorded, found) if recorded is not None else None,
        "differences": schema_differences(recorded, found) if recorded is not None else [],
    }


def check_expectations(restored: Restored, suite: Path) -> dict[str, Any]:
    """A suite of expectations over all live Parquet objects. ``met`` is ``None`` where it could not be judged here."""
    from holdfast.engine.quality import evaluate  # Great Expectations takes seconds to import

    try:
        report = evaluate(_table(restored), suite)
    except (ConfigError, TableDamaged) as error:
        return {"suite": suite.stem, "met": None, "rows": None, "checked": None, "unmet": [], "reason": str(error)}
    except (pa.ArrowException, OSError) as error:
        return {
            "suite": suite.stem,
            "met": False,
            "rows": None,
            "checked": None,
            "unmet": [],
            "reason": f"an object is no Parquet: {str(error).splitlines()[0]}",
        }
    return {
        "suite": report.suite,
        "met": report.ok,
        "rows": report.rows,
        "checked": report.checked,
        "unmet": [{"expectation": one.expectation, "column": one.column, "found": one.found} for one in report.unmet],
        "reason": None,
    }


def check_tables(restored: Restored, recorded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Whether each lake table's version is whole where it lies now; ``None`` where there is no table.

    Args:
        recorded: the tables the backup says it holds.
    """
    told: list[dict[str, Any]] = []
    formats: tuple[TableFormat, ...] = ("delta", "iceberg")
    for table in formats:
        try:
            told += [_told(state) for state in table_states(table, restored.rows, restored.read)]
        except (TableDamaged, ConfigError) as error:
            whole = False if isinstance(error, TableDamaged) else None
            told.append({"format": table, "root": error.where, "version": None, "whole": whole, "reason": str(error)})
    for one in recorded:
        found = next((t for t in told if (t["format"], t["root"]) == (one.get("format"), one.get("root"))), None)
        if found is None or found["version"] != one.get("version"):
            reason = "the version that was backed up is not the one that was found"
            told.append({**{n: one.get(n) for n in ("format", "root", "version")}, "whole": False, "reason": reason})
    return told or None


def _told(state: TableState) -> dict[str, Any]:
    return {
        "format": state.format,
        "root": state.root,
        "version": state.version,
        "whole": state.is_whole,
        "reason": state.problem if not state.is_whole else None,
    }


def _table(restored: Restored) -> pa.Table:
    named = live_data(restored.rows, restored.read)
    paths = sorted(path for path in (restored.rows if named is None else named) if path.endswith(SUFFIX))
    if not paths:
        raise ConfigError(
            "there is nothing a suite could be run over",
            where=restored.prefix,
            expected=f"objects that end in {SUFFIX}",
            found=f"{len(restored.rows)} others",
        )
    parts = [pq.read_table(pa.BufferReader(restored.read(path))) for path in paths]
    return pa.concat_tables(parts, promote_options="default")


def check_model(restored: Restored, asked: GoldenSet | None, reference: Reference | None) -> dict[str, Any]:
    """Load the restored model, and compare its answers with the reference's."""
    told: dict[str, Any] = {
        "loads": None,
        "answers_equal": None,
        "questions": None if asked is None else len(asked.instances),
        "golden_set": None if asked is None else asked.digest,
        "reference": None if reference is None else reference.how,
        "answers": None,
        "expected": None if reference is None or reference.predictions is None else list(reference.predictions),
        "largest_difference": None,
        "tolerance": TOLERANCE,
        "reason": None,
    }
    files = {path: restored.read(path) for path in restored.rows}
    try:
        predictor = load_predictor(files)
        told["loads"] = True
        answers = [] if asked is None else predictor.predict(asked.instances)
    except ModelUnusable as error:
        return {**told, "loads": False, "reason": str(error)}
    except ImportError as error:
        return {**told, "reason": f"the model's library is not installed here: {error}"}
    except ValueError as error:  # also what xgboost raises
        return {**told, "answers_equal": False, "reason": f"it does not answer: {str(error).splitlines()[0]}"}
    if asked is None:
        return told
    told["answers"] = list(answers)
    if told["expected"] is None:
        return told
    difference = largest_difference(answers, told["expected"])
    return {
        **told,
        "largest_difference": difference,
        "answers_equal": difference is not None and difference <= TOLERANCE,
    }
