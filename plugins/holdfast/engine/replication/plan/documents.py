"""What a stored plan says without its rows, and its tables as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import pyarrow as pa
from pydantic import Field

from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document, UtcTime, canonical
from holdfast.engine.snapshot.manifest import write_table


class DeletesSummary(Document):
    """What leaves the dataset. Whether bytes are removed anywhere is another matter (`deletes`)."""

    enabled: bool = Field(description="Whether the policy removes anything at all.")
    objects: int = Field(ge=0)
    share: float = Field(ge=0, description="Of the objects known before.")
    needs_approval: bool = Field(description="More than the policy removes without a person.")


class TargetSummary(Document):
    """What a sync would do at one target; null: not known."""

    site: str
    refused: str | None = Field(description="Why no byte may come here.")
    copy_objects: int
    copy_bytes: int
    keep_objects: int
    keep_bytes: int
    delete_objects: int
    refuse_objects: int
    refuse_bytes: int
    egress_cost: float | None
    expected_seconds: float | None
    at_least_seconds: float | None = Field(description="What the sites' limits alone demand.")


class PlanDocument(Document):
    """A sync's plan. Its id is the digest of everything else in it, the tables' digests included."""

    format: Literal["holdfast.sync-plan/1"] = "holdfast.sync-plan/1"
    plan_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    dataset: str
    folder: str
    source_site: str
    made_at: UtcTime
    based_on: str | None = Field(description="The snapshot it compares with.")
    suspect: str | None = Field(description="Why the source's listing looks cut off.")
    copy_objects: int = Field(ge=0, description="Read at the source, each once.")
    copy_bytes: int = Field(ge=0)
    counts: dict[str, dict[str, tuple[int, int]]] = Field(description="By action and reason: objects and bytes.")
    deletes: DeletesSummary
    targets: tuple[TargetSummary, ...]
    tables: dict[str, str] = Field(description="Digests of the Parquet files, by their name without `.parquet`.")

    @classmethod
    def seal(cls, **fields: object) -> Self:
        """A document of these fields with the id they give."""
        draft = cls.model_validate({**fields, "plan_id": "0" * 32})
        return draft.model_copy(update={"plan_id": draft.content_id()})

    def content_id(self) -> str:
        """The id its content gives: 128 bits of BLAKE3 over its canonical JSON without ``plan_id``."""
        return digest_of(canonical(self.model_dump(mode="json", exclude={"plan_id"}))).partition(":")[2][:32]


class ShardEntry(Document):
    """One shard of a plan."""

    number: int = Field(ge=0)
    barrier: bool = Field(description="Its objects are copied after those of all other shards.")
    objects: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    first: str = Field(description="The first path in it.")
    last: str
    digest: str = Field(description="Of its Parquet file.")


class ShardIndex(Document):
    """The shards of a plan."""

    format: Literal["holdfast.sync-shards/1"] = "holdfast.sync-shards/1"
    plan_id: str
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class PlanTables:
    """Tables as Parquet bytes, by name."""

    data: Mapping[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        return {name: digest_of(data) for name, data in self.data.items()}


def tables_of(tables: Mapping[str, pa.Table]) -> PlanTables:
    """Tables as they are stored."""
    return PlanTables({name: write_table(table.combine_chunks()) for name, table in tables.items()})
