"""How a dataset is replicated: what belongs to it, how it is copied, verified, and when something may be removed."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from holdfast.engine.config.base import Model, Name


class Filters(Model):
    """Which objects under the folder belong to the dataset. All conditions must hold."""

    include: tuple[str, ...] = Field((), description="Globs on the relative path (`**` crosses folders); none: all.")
    exclude: tuple[str, ...] = Field((), description="Globs that win over `include`.")
    smallest_bytes: int | None = Field(None, ge=0)
    largest_bytes: int | None = Field(None, ge=0)
    youngest_seconds: float | None = Field(None, ge=0, description="Objects changed more recently are left for later.")
    oldest_seconds: float | None = Field(None, ge=0, description="Objects last changed longer ago are left out.")


class Deletes(Model):
    """Whether objects that left the source are removed from replicas' own keys, and how carefully."""

    enabled: bool = False
    delay_seconds: float = Field(
        7 * 86400, ge=0, description="From the tombstone to the removal; until then it can be undone."
    )
    most_objects: int = Field(1000, ge=0, description="More in one run wait for a person.")
    most_share: float = Field(0.1, ge=0, le=1, description="A larger share of the dataset waits for a person.")


class Verification(StrEnum):
    ALL = "all"
    SAMPLED = "sampled"
    PROVIDER = "provider"


class Sync(Model):
    """How a dataset is replicated."""

    filters: Filters = Field(default_factory=lambda: Filters())
    rename: dict[str, str] = Field(
        default_factory=dict, description="Source prefix to the prefix it gets in the dataset; longest wins."
    )
    last: tuple[str, ...] = Field(
        ("_metadata", "**/_metadata", "_common_metadata", "**/_common_metadata", "_SUCCESS", "**/_SUCCESS"),
        description="Globs of small metadata that is copied after the data it describes.",
    )
    verify: Verification = Field(
        Verification.ALL,
        description="What a receipt asks: `all` read back, a `sampled` share, or the `provider`'s own checksum.",
    )
    sample_share: float = Field(0.05, gt=0, le=1, description="Of the objects, with `verify: sampled`.")
    layout: Literal["direct", "staged"] = Field(
        "direct", description="`direct`: at their own keys where free; `staged`: always under `.versions/`."
    )
    table: Literal["none", "delta", "iceberg"] = Field("none", description="A table format keeps its commit order.")
    direction: Literal["one-way", "active-active"] = "one-way"
    winner: Name | None = Field(
        None,
        description="With `active-active`: the site whose change wins a conflict. Without one nothing is merged, and a "
        "run is refused.",
    )
    writers: tuple[Name, ...] = Field(
        (),
        description="With `active-active`: the two sites that are written to. By default the active one, and the "
        "winner or the only other one that is no witness.",
    )
    deletes: Deletes = Field(default_factory=lambda: Deletes())
    encrypt: str | None = Field(
        None,
        description="Client-side envelope encryption: the environment variable with the key-encryption key.",
    )
    storage_class: dict[Name, str] = Field(
        default_factory=dict, description="Per site the storage class of new objects."
    )
    preserve: tuple[Literal["storage-class", "tags"], ...] = Field(
        (), description="What no GET tells and is asked for beside it: requests more per copied object."
    )
    engine: Literal["own", "datasync", "storage-transfer", "azcopy"] = Field("own", description="What moves the bytes.")
    feed: str | None = Field(
        None,
        description="URI of the source's change feed (docs/reference/sync-feeds.md); a hint, reconciled.",
    )
    inventory: str | None = Field(
        None,
        description="URI of the store's inventory reports, in place of the listing that reconciles.",
    )
    reconcile_every_seconds: float = Field(86400, gt=0, description="How long a lost event can hide.")

    @model_validator(mode="after")
    def _winner_is_named(self) -> Self:
        if self.winner is not None and self.direction != "active-active":
            raise ValueError("`winner` belongs to `direction: active-active`")
        return self

    @model_validator(mode="after")
    def _writers_are_two(self) -> Self:
        if not self.writers:
            return self
        if self.direction != "active-active":
            raise ValueError("`writers` belong to `direction: active-active`")
        if len(set(self.writers)) != 2 or len(self.writers) != 2:
            raise ValueError("`writers` are two different sites")
        if self.winner is not None and self.winner not in self.writers:
            raise ValueError("`winner` is one of the `writers`")
        return self
