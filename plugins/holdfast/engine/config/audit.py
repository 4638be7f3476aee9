"""Sources of audit events, and the ledger they are sealed into."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from holdfast.engine.config.base import Model, Name, RelativePath


class _InBucket(Model):
    """A source whose events lie in a bucket of a cloud."""

    site: Name = Field(description="The site with whose connection it is read.")
    bucket: str = Field(description="Where the cloud delivers to: a bucket of its own, not the site's.")
    prefix: str = Field("", description="Before what the cloud itself puts there, without slashes around.")


class CloudTrailSource(_InBucket):
    kind: Literal["cloudtrail"]
    account: str = Field(pattern=r"^[0-9]{12}$", description="The AWS account.")
    trail: str = Field(description="The trail's name, which its digests carry.")
    regions: tuple[str, ...] = Field(min_length=1, description="The regions whose events are wanted.")
    home_region: str = Field(description="Where the trail was made.")
    organization: str | None = Field(None, description="Its id, for an organisation's trail: `o-…`.")


class CloudLoggingSource(_InBucket):
    kind: Literal["cloud-logging"]
    logs: tuple[str, ...] = Field(
        ("cloudaudit.googleapis.com/activity", "cloudaudit.googleapis.com/data_access"),
        min_length=1,
        description="Folders the sink writes: one for each log.",
    )
    hold_hours: float = Field(4.0, ge=0, description="How long after its end an hour may still get late shards.")
    heartbeat: str | None = Field(
        None,
        description="A log of the same sink that has an entry every hour, e.g. `holdfast-heartbeat`. With it an hour "
        "without objects of another log is empty; without, it is unknown.",
    )
    sink: str | None = Field(
        None,
        pattern=r"^(projects|folders|organizations|billingAccounts)/[^/]+/sinks/[^/]+$",
        description="Whose settings are kept as evidence: `projects/<id>/sinks/<name>`.",
    )


class AzureMonitorSource(_InBucket):
    kind: Literal["azure-monitor"]
    bucket: str = Field(
        "",
        description="None: each category is a container of its own, as Azure delivers. Else the one container in which "
        "each category is a folder.",
    )
    categories: tuple[str, ...] = Field(
        ("insights-activity-logs",), min_length=1, description="Containers' or folders' names: one for each category."
    )
    resource_id: str = Field(
        pattern=r"^(/[^/]+)+$|^tenantId=[^/]+$",
        description="Whose logs, spelt as in the blobs' names: `/SUBSCRIPTIONS/<ID>`, a resource below it, or "
        "`tenantId=<id>` for Entra's.",
    )
    hold_hours: float = Field(1.0, ge=0, description="How long after its end an hour's blob may still grow.")


class KubernetesSource(_InBucket):
    kind: Literal["kubernetes"]
    cluster: str = Field(description="Its name, in every event.")
    layout: str = Field(
        "{yyyy}/{mm}/{dd}/{hh}/",
        description="What the names of one hour's objects begin with: `{yyyy}`, `{mm}`, `{dd}`, `{hh}` (UTC) and "
        "`{cluster}` are filled in.",
    )
    sequence: str | None = Field(
        None,
        description="What follows the layout, where the exporter numbers its objects without holes: `{index}`, and "
        "`{stream}` where several exporters number for themselves, e.g. `{stream}-{index}.gz`. None: nothing shows "
        "that an hour is whole.",
    )
    hold_hours: float = Field(1.0, ge=0, description="How long after its end an hour may still get objects.")

    @field_validator("layout")
    @classmethod
    def _has_hours(cls, layout: str) -> str:
        if missing := [name for name in ("{yyyy}", "{mm}", "{dd}", "{hh}") if name not in layout]:
            raise ValueError(f"expected every hour to have names of its own; {', '.join(missing)} is missing")
        return layout

    @field_validator("sequence")
    @classmethod
    def _has_index(cls, sequence: str | None) -> str | None:
        if sequence is not None and (sequence.count("{index}") != 1 or sequence.count("{stream}") > 1):
            raise ValueError("expected `{index}` once, and `{stream}` at most once")
        return sequence


class AirflowSource(Model):
    kind: Literal["airflow"]
    connection: str = Field(description="Its REST API: an HTTP connection with user and password, or a token.")


class HoldfastSource(Model):
    kind: Literal["holdfast"]
    sites: tuple[Name, ...] = Field((), description="Whose records; none: of every site.")


Source = Annotated[
    CloudTrailSource | CloudLoggingSource | AzureMonitorSource | KubernetesSource | AirflowSource | HoldfastSource,
    Field(discriminator="kind"),
]


class AuditKeys(Model):
    """Who signs a checkpoint: this machine's own Ed25519 key, and keys of clouds beside it; and who signs drills."""

    cosigners: tuple[str, ...] = Field(
        (),
        description="`aws-kms:…`, `gcp-kms:…`, `azure-key-vault:…`, `file:…`: each an ECDSA P-256 key, a file's may be "
        "Ed25519.",
    )
    drills: tuple[str, ...] = Field(
        (),
        description="Public keys that may sign drills' evidence: PEM files relative to the topology, or 32 bytes in "
        "hex or base64. None: whatever key the evidence itself names.",
    )


class Timestamps(Model):
    """An authority that says when a checkpoint existed."""

    url: str = Field(pattern=r"^https?://", description="Of the authority.")
    roots: str = Field(description="PEM file of the certificates its answers must lead to, relative to the topology.")


class Privacy(Model):
    """How the people in audit events are protected."""

    subjects: Literal["pseudonymous"] = Field(
        description="Who did it stands as a pseudonym in exports, and the event's bytes under a key of that subject, "
        "which `holdfast audit shred` removes."
    )
    master_key: str = Field(
        pattern=r"^(file|env|aws-kms|gcp-kms|azure-key-vault):.+",
        description="Opens the subjects' keys: `file:/path` or `env:NAME` (64 hex digits or an age identity), "
        "`aws-kms:…`, `gcp-kms:…`, `azure-key-vault:…`.",
    )


class Audit(Model):
    """What is collected, and where it is sealed."""

    origin: str = Field(
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="The ledger's name for good, as a URL without a scheme: `example.com/holdfast`.",
    )
    sites: tuple[Name, ...] = Field(
        min_length=2, description="Where it lies: of two clouds at least. The first one orders what is appended."
    )
    prefix: RelativePath = Field("ledger", description="Folder in each site's bucket.")
    sources: dict[Name, Source] = Field(default_factory=dict)
    look_back_hours: float = Field(
        48.0,
        ge=0,
        le=720,
        description="Each export lists the hours of so long that are sealed already once more, and seals what came to "
        "them late. 0: none.",
    )
    keys: AuditKeys = Field(default_factory=lambda: AuditKeys())
    timestamps: Timestamps | None = Field(
        None, description="Independent time for every checkpoint (RFC 3161); needs the extra `audit`."
    )
    privacy: Privacy | None = Field(None, description="None: exports hold what the sources wrote, names and all.")
    retention: tuple[str, ...] = Field((), description="Retention profiles; the longest counts.")
    lock_mode: Literal["compliance", "governance", "none"] = Field(
        "compliance", description="`none` locks nothing, and the export says so."
    )
    export_schedule: str | None = Field("@hourly", description="Cron expression of `export_audit`; none: by hand.")
    verify_schedule: str | None = Field("@daily", description="Cron expression of `verify_exports`.")
    posture_schedule: str | None = Field("@daily", description="Cron expression of `check_posture`.")
