"""Where the clouds' bills lie, whose lines are whose, and by what prices estimates are made."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from holdfast.engine.config.base import Model, Name, RelativePath

Role = Literal["active", "standby", "witness"]


class CostExport(Model):
    """One FOCUS export of a cloud."""

    site: Name = Field(description="The site with whose connection it is read, and whose cloud it is the bill of.")
    bucket: str = Field(description="Where it is delivered to: a bucket, a container, or an absolute folder.")
    prefix: str = Field("", description="Of this export alone, without slashes around; two in one folder would mix.")
    settle_days: float = Field(
        14.0, ge=0, description="How long after its end a billing period may still change; AWS says two weeks."
    )
    most_file_mib: int = Field(2048, gt=0, description="A larger file is refused, and one that inflates to 16 times.")


class CostTags(Model):
    """Tag names, several spellings of each: a Google label has no colon. Case, `-`, `_` and `:` count alike."""

    group: tuple[str, ...] = Field(("holdfast:group",), min_length=1)
    role: tuple[str, ...] = Field(("holdfast:role",), min_length=1, description="`active`, `standby` or `witness`.")
    site: tuple[str, ...] = Field(("holdfast:site",), min_length=1)
    dataset: tuple[str, ...] = Field(("holdfast:dataset",), min_length=1)
    drill: tuple[str, ...] = Field(("dr_drill_id",), min_length=1, description="The drill's id.")


class CostRule(Model):
    """Whose a line is that carries no tag. All that is named must match, as a whole and as it is written."""

    sub_account: str | None = None
    resource: str | None = Field(None, description="`ResourceId` or `ResourceName`.")
    service: str | None = Field(None, description="`ServiceName`.")
    region: str | None = Field(None, description="`RegionId`.")
    group: Name
    role: Role
    site: Name | None = None

    @model_validator(mode="after")
    def _matches_something(self) -> Self:
        if not any((self.sub_account, self.resource, self.service, self.region)):
            raise ValueError("expected at least one of sub_account, resource, service, region; found none")
        return self


class RtoOption(Model):
    """Another way to stand by, as somebody has priced it; what is there now is measured."""

    name: Name
    rto_seconds: float = Field(gt=0)
    per_month: Decimal = Field(ge=0, description="In `cost.currency`.")
    basis: str = Field(min_length=1, description="Where the figures come from: a quote, a drill, a calculator.")


class LockedFolder(Model):
    """Objects nobody can remove before their time; vaults with `lock_days` need not be named."""

    site: Name
    prefix: RelativePath = Field(description="Folder in the site's bucket.")
    days: float = Field(gt=0, description="How long each object is locked from when it is written.")


class CostApi(Model):
    """An interface asked where an export is missing. It is asked only by `--ask`, and never for more than this."""

    kind: Literal["cost-explorer", "cost-management", "bigquery"]
    connection: str
    scope: str = Field(
        description="Cost Explorer: the account. Cost Management: `/subscriptions/<id>` or wider. "
        "BigQuery: `<project>.<dataset>.<table>` of the FOCUS export."
    )
    most_cost: Decimal = Field(
        Decimal("0.10"), ge=0, description="In US dollars for one run; a request beyond it is not made."
    )
    price_per_tib: Decimal = Field(Decimal("6.25"), ge=0, description="Of BigQuery, in US dollars.")


class Cost(Model):
    """What standing by costs."""

    currency: str = Field(
        "USD", pattern=r"^[A-Z]{3}$", description="Of `egress_cost_per_gib` and of `rto_options`; bills keep their own."
    )
    price_list: str | None = Field(
        None, description="List prices (YAML), relative to the topology file; none: only what bills and sites say."
    )
    runs_at: Name | None = Field(
        None, description="The site whose machines copy and read back; none: read-backs are counted but not priced."
    )
    exports: dict[Name, CostExport] = Field(default_factory=dict)
    apis: dict[Name, CostApi] = Field(default_factory=dict, description="By site: what is asked where no export is.")
    tags: CostTags = Field(default_factory=lambda: CostTags())
    rules: tuple[CostRule, ...] = Field((), description="The first one that matches counts, after tags.")
    rto_options: dict[Name, tuple[RtoOption, ...]] = Field(default_factory=dict, description="By group.")
    locked: tuple[LockedFolder, ...] = ()
    schedule: str | None = Field("0 6 * * *", description="Cron expression of `report_costs`; none: only by hand.")
