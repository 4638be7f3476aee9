"""Plans in a bucket: ``sync-plans/<dataset>/<plan id>/``. Tables first, ``plan.json`` last; all create-only."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa
from pydantic import ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.plan.documents import PlanDocument
from holdfast.engine.replication.plan.errors import PlanConflict, PlanDamaged
from holdfast.engine.replication.plan.plan import SyncPlan, TargetPlan
from holdfast.engine.replication.plan.schema import ACTIONS
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document
from holdfast.engine.snapshot.errors import ManifestDamaged
from holdfast.engine.snapshot.manifest import read_table
from holdfast.engine.snapshot.once import create_or_read

_Doc = TypeVar("_Doc", bound=Document)


def root(dataset: str, plan_id: str) -> str:
    """The folder of a plan."""
    return f"sync-plans/{keys.check_name(dataset)}/{plan_id}"


def store_plan(store: ObjectStore, plan: SyncPlan) -> str:
    """Write a plan; again is no error.

    Returns:
        The plan's id, by which `load_plan` finds it.

    Raises:
        PlanConflict: other bytes lie where it belongs.
        StoreUnavailable: it is not known whether it was written.
    """
    folder = root(plan.dataset, plan.plan_id)
    for name, data in plan.tables.data.items():
        create_same(store, f"{folder}/{name}.parquet", data)
    create_same(store, f"{folder}/plan.json", plan.document.to_json(), content_type="application/json")
    return plan.plan_id


def load_plan(store: ObjectStore, dataset: str, plan_id: str) -> SyncPlan:
    """Read a plan, checked against its id; its ``changes`` lack the rows that are kept.

    Raises:
        PlanDamaged: it is not there, or not what was written.
    """
    folder = root(dataset, plan_id)
    document = read_document(store, f"{folder}/plan.json", PlanDocument)
    if document.content_id() != plan_id or document.plan_id != plan_id or document.dataset != dataset:
        raise PlanDamaged(
            "the plan was changed after it was written",
            where=f"{store.name}: {folder}/plan.json",
            expected=f"content that gives the id {plan_id}",
            found=f"content that gives {document.content_id()}",
            fix="Make a new plan",
        )
    tables = {
        name: read_rows(store, f"{folder}/{name}.parquet", ACTIONS, digest=digest)
        for name, digest in document.tables.items()
    }
    return SyncPlan(
        dataset=document.dataset,
        folder=document.folder,
        source_site=document.source_site,
        made_at=document.made_at,
        based_on=document.based_on,
        targets=tuple(
            TargetPlan(**target.model_dump(), work=tables[f"targets/{target.site}"]) for target in document.targets
        ),
        suspect=document.suspect,
        deletes=document.deletes,
        counts=document.counts,
        changes=tables["changes"],
        stored=document,
    )


def create_same(store: ObjectStore, key: str, data: bytes, *, content_type: str | None = None) -> None:
    """Create an object, or find the same bytes there. Raises PlanConflict."""
    found = create_or_read(store, key, data, content_type=content_type)
    if found != data:
        raise PlanConflict(
            "something else lies there",
            where=f"{store.name}: {key}",
            expected=digest_of(data),
            found=digest_of(found),
            fix="Make a new plan; nothing was overwritten",
        )


def read_document(store: ObjectStore, key: str, kind: type[_Doc]) -> _Doc:
    """A JSON document of a plan. Raises PlanDamaged."""
    data = _read(store, key)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise PlanDamaged(
            "the document cannot be read",
            where=f"{store.name}: {key}",
            expected=str(kind.model_fields["format"].default),
            found=f"{error.error_count()} errors in {len(data)} bytes",
            fix="Make a new plan",
        ) from None


def read_rows(store: ObjectStore, key: str, schema: pa.Schema, *, digest: str | None) -> pa.Table:
    """A Parquet table of a plan, checked against its digest where one is known. Raises PlanDamaged."""
    data = _read(store, key)
    if digest is not None and digest_of(data) != digest:
        raise PlanDamaged(
            "the table is not the one that was planned",
            where=f"{store.name}: {key}",
            expected=digest,
            found=digest_of(data),
            fix="Make a new plan",
        )
    return rows_from(data, schema, where=f"{store.name}: {key}")


def rows_from(data: bytes, schema: pa.Schema, *, where: str) -> pa.Table:
    """Parquet bytes as a table of this schema. Raises PlanDamaged."""
    try:
        return read_table(data, schema, where)
    except ManifestDamaged as error:
        raise PlanDamaged(
            error.what, where=error.where, expected=error.expected, found=error.found, fix="Make a new plan"
        ) from None


def _read(store: ObjectStore, key: str) -> bytes:
    try:
        return store.get(key)
    except ObjectNotFound:
        raise PlanDamaged(
            "a part of the plan is not there",
            where=f"{store.name}: {key}",
            fix="Make a new plan, or name the site it was stored at",
        ) from None
