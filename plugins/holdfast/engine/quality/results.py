"""What a suite said of a dataset's version, kept beside its snapshots: met or not, it is evidence.

``quality/<dataset>/<32 hex of the manifest's digest>-<16 hex of the suite's SHA-256>.json``, create-only: the first
result of this suite for these very bytes stays.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.quality.expectations import ExpectationReport
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.once import create_or_read

FOLDER = "quality"


class Checked(Document):
    """One expectation, and whether the data meets it."""

    expectation: str
    column: str | None
    success: bool
    found: str | None = Field(description="Of one that is not met, what was found")


class QualityResult(Document):
    """What a suite said of the bytes a manifest names."""

    format: Literal["holdfast.quality/1"] = "holdfast.quality/1"
    dataset: str
    manifest_digest: str
    suite: str
    suite_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: int = Field(ge=0)
    ok: bool
    expectations: tuple[Checked, ...]
    checked_at: UtcTime
    great_expectations: str = Field(description="Its version")

    @property
    def key(self) -> str:
        """Where it lies."""
        return key_of(self.dataset, self.manifest_digest, self.suite_sha256)


def key_of(dataset: str, manifest_digest: str, suite_sha256: str) -> str:
    """Where the result of a suite over some bytes lies."""
    return f"{prefix_of(dataset, manifest_digest)}-{suite_sha256[:16]}.json"


def prefix_of(dataset: str, manifest_digest: str) -> str:
    """How the keys of all results of these bytes begin."""
    return f"{FOLDER}/{dataset}/{manifest_digest.partition(':')[2][:32]}"


def keep_result(
    store: ObjectStore, dataset: str, manifest_digest: str, report: ExpectationReport, suite: bytes, at: datetime
) -> QualityResult:
    """Write a result down, unless one of these bytes and this suite is there.

    Args:
        suite: the bytes of its file.

    Raises:
        ObjectStoreError: it could not be written.
    """
    found = {(one.expectation, one.column): one.found for one in report.unmet}
    result = QualityResult(
        dataset=dataset,
        manifest_digest=manifest_digest,
        suite=report.suite,
        suite_sha256=sha256(suite).hexdigest(),
        rows=report.rows,
        ok=report.ok,
        expectations=tuple(
            Checked(
                expectation=one.expectation,
                column=one.column,
                success=one.success,
                found=None if one.success else found.get((one.expectation, one.column)),
            )
            for one in report.assertions
        ),
        checked_at=at,
        great_expectations=version("great-expectations"),
    )
    create_or_read(store, result.key, result.to_json(), content_type="application/json")
    return result
