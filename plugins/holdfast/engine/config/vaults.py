"""Vaults: where backups lie, who can open them, how long they stay."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from holdfast.engine.config.base import Model, Name, RelativePath

Tier = Literal["hourly", "daily", "weekly", "monthly", "yearly"]
_RECIPIENTS = (
    "Each as `age:age1…`, `file:/path` or `env:NAME` (64 hex digits or an age identity), `aws-kms:arn…`, "
    "`gcp-kms:projects/…` or `azure-key-vault:https://…/keys/…`. Any one of them opens it."
)


class VaultKeys(Model):
    """Who can open each role's key set. Name two clouds' KMSs and an offline recipient."""

    writer: tuple[str, ...] = Field(min_length=1, description=f"Backs up; reads names, never content. {_RECIPIENTS}")
    reader: tuple[str, ...] = Field(min_length=1, description="Restores.")
    admin: tuple[str, ...] = Field(min_length=1, description="Forgets, collects, changes keys.")


class VaultQueues(Model):
    """Airflow queues by role: a worker then needs one role's key. None: the default queue, whose workers need all."""

    writer: str | None = Field(None, min_length=1, description="Backs up, mirrors, notes, renews locks, checks ages.")
    reader: str | None = Field(None, min_length=1, description="Verifies, restores, drills.")
    admin: str | None = Field(None, min_length=1, description="Forgets and collects.")


class KeepBackups(Model):
    """How many backups of each source stay: the newest, and the newest of each of the last so many periods (UTC)."""

    last: int = Field(3, ge=1)
    hourly: int = Field(24, ge=0)
    daily: int = Field(7, ge=0)
    weekly: int = Field(5, ge=0)
    monthly: int = Field(12, ge=0)
    yearly: int = Field(0, ge=0)


class VaultShares(Model):
    """Packs as shares at several sites, of which any ``needed`` bring them back; everything else lies whole at each."""

    sites: tuple[Name, ...] = Field(
        min_length=3, description="In order; the first is the vault's `site`. Never reordered."
    )
    needed: int = Field(2, ge=1, description="How many of them must be there to read.")


class Vault(Model):
    """One backup repository."""

    site: Name = Field(description="Where it lies; choose another cloud than what it protects.")
    prefix: RelativePath | None = Field(None, description="Folder in the site's bucket; none: `vault/<name>`.")
    mirrors: tuple[Name, ...] = Field((), description="Sites that get a copy of everything, and can be restored from.")
    shares: VaultShares | None = Field(None, description="Instead of mirrors: 2 of 3 clouds at 1.5 times the storage.")
    witnesses: tuple[Name, ...] = Field(
        (), description="Sites that are told each new entry, so that removing the newest one shows. Two are wanted."
    )
    repository: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{32}$",
        description="Its id, which `vault init` prints: no other repository is taken for it. Set it.",
    )
    keys: VaultKeys
    queues: VaultQueues = Field(default_factory=lambda: VaultQueues())
    keep: KeepBackups = Field(default_factory=lambda: KeepBackups())
    lock_days: dict[Tier, int] = Field(
        default_factory=dict, description="Per retention tier how long its objects cannot be removed by anybody."
    )
    lock_mode: Literal["compliance", "governance"] = Field(
        "compliance", description="`governance`: who has a special right can lift a lock; for trying it out."
    )
    airflow_escrow: tuple[str, ...] = Field(
        (), description="Who can open Airflow's own keys in a backup of it; nobody who can read this vault's content."
    )
    grace_hours: float = Field(24.0, ge=0, description="How long collected bytes stay for restores that began before.")
    rpo_hours: float | None = Field(
        26.0, gt=0, description="How old the newest verified backup may be; none: the group's `rpo_seconds`."
    )
    rpo_depth: Literal["structure", "sample", "full"] = Field(
        "structure", description="How deep a backup must have been verified at least to count for it."
    )
    verify_days: float = Field(28.0, gt=0, description="In this time a sampled verification reads every pack once.")
    backup_schedule: str | None = Field("@daily", description="Cron expression of `back_up`; none: only by hand.")
    verify_schedule: str | None = Field("@daily", description="Cron expression of `verify_backups`.")
    drill_schedule: str | None = Field("@weekly", description="Cron expression of `restore_drill`.")

    @property
    def places(self) -> tuple[str, ...]:
        """All sites that hold content of it."""
        return self.shares.sites if self.shares is not None else (self.site, *self.mirrors)

    @model_validator(mode="after")
    def _has_sites_of_its_own(self) -> Self:
        if self.site in self.mirrors or len(set(self.mirrors)) != len(self.mirrors):
            raise ValueError(f"expected mirrors at other sites, each once; found {', '.join(self.mirrors)}")
        if self.site in self.witnesses:
            raise ValueError(f"expected witnesses at other sites than the vault's; found {self.site}")
        if self.shares is not None:
            if self.mirrors:
                raise ValueError("expected `mirrors` or `shares`; found both")
            if self.shares.sites[0] != self.site or len(set(self.shares.sites)) != len(self.shares.sites):
                raise ValueError(f"expected `shares.sites` to begin with {self.site}, each site once")
            if self.shares.needed >= len(self.shares.sites):
                raise ValueError("expected `shares.needed` below the number of sites: else no site may be lost")
        if any(days < 1 for days in self.lock_days.values()):
            raise ValueError("expected whole days from 1 on in `lock_days`")
        return self
