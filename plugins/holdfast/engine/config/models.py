"""The topology: sites, protection groups and what they protect, as one validated, frozen model.

`load_topology` reads it from YAML; this module says what it may contain and what must hold across its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, model_validator

from holdfast.engine.config.airflow import Airflow
from holdfast.engine.config.audit import Audit
from holdfast.engine.config.base import Model, Name, RelativePath
from holdfast.engine.config.checkpoints import CheckpointCompression, KeepCheckpoints, PlannedInterval
from holdfast.engine.config.compute import Compute, Placement
from holdfast.engine.config.cost import Cost
from holdfast.engine.config.sync import Sync
from holdfast.engine.config.vaults import Vault
from holdfast.errors import UnknownName

_T = TypeVar("_T")


class Cloud(StrEnum):
    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"
    LOCAL = "local"


class Limits(Model):
    """How much load one process may put on a site's object store; none: no limit."""

    bytes_per_second: float | None = Field(None, gt=0, description="Read and written together.")
    requests_per_second: float | None = Field(None, gt=0)
    concurrency: int = Field(32, ge=1, le=256, description="Requests in flight at most; fewer while it throttles.")


class Site(Model):
    """One cloud region with its object store, keys, compute and jurisdiction."""

    cloud: Cloud
    region: str = Field(description="The provider's region name, e.g. `eu-west-1`.")
    jurisdiction: str = Field(description="The legal area its bytes lie in, e.g. `EU`; residency classes name these.")
    connection: str = Field(
        description="Airflow connection id with the credentials and, for an emulator, the endpoint."
    )
    bucket: str = Field(description="Bucket (S3, GCS), container (Azure) or absolute folder (local).")
    prefix: str = Field("", description="Key prefix inside the bucket, without a leading slash.")
    compute: Compute = Field(default_factory=lambda: Compute())
    limits: Limits = Field(default_factory=lambda: Limits())
    kms_key: str | None = Field(
        None,
        description="Key the store encrypts new objects with: ARN, resource name or scope.",
    )
    egress_cost_per_gib: float = Field(0.0, ge=0, description="What a GiB that leaves this site costs; for estimates.")


class Objectives(Model):
    rpo_seconds: float = Field(gt=0, description="The most data, in seconds, that may be lost.")
    rto_seconds: float = Field(
        gt=0, description="The longest a service may be gone, from the fault to a correct answer."
    )


class Decision(StrEnum):
    APPROVAL = "approval"
    AUTOMATIC = "automatic"


class NoCapacityPolicy(StrEnum):
    """What a group gives up while no placement of a training job has a machine."""

    WAIT = "wait"
    GO_ON = "go-on-without-training"
    FAIL = "fail"


class Detection(Model):
    """When a site counts as down. Every condition must hold."""

    interval_seconds: float = Field(5.0, gt=0)
    timeout_seconds: float = Field(2.0, gt=0)
    consecutive_failures: int = Field(3, ge=2, description="K: failures in a row, per vantage point and signal.")
    vantage_points: int = Field(2, ge=1, description="N: vantage points that must agree.")
    minimum_seconds: float = Field(15.0, ge=0, description="The failure must have lasted this long.")
    recovery_successes: int = Field(5, ge=1, description="Successes in a row before a site counts as healthy again.")
    heartbeat_stale_seconds: float = Field(15.0, gt=0, description="A heartbeat older than this is missing.")


class Fencing(Model):
    fence_seconds: float = Field(
        30.0, gt=0, description="T_fence: a site that read no majority for this long stops writing."
    )
    clock_skew_seconds: float = Field(1.0, ge=0, description="Added to T_fence before a promotion goes on.")


class Roles(Model):
    """The sites of a group and their first roles. Afterwards the authority says which is active."""

    active: Name
    standby: tuple[Name, ...] = Field(min_length=1)
    witness: tuple[Name, ...] = ()

    def all(self) -> tuple[str, ...]:
        return (self.active, *self.standby, *self.witness)


class Group(Model):
    """What fails over together."""

    description: str = ""
    owner: str = Field(description="Who answers for it.")
    tier: int = Field(ge=1, le=4, description="1 is the most critical.")
    sites: Roles
    objectives: Objectives
    decision: Decision = Decision.APPROVAL
    four_eyes: bool = Field(
        False,
        description="Whether a person's approval of a plan or of a live restore has to be another person's than who "
        "asked for it. Off by default: somebody alone on call may have to do both.",
    )
    detection: Detection = Field(default_factory=lambda: Detection())
    fencing: Fencing = Field(default_factory=lambda: Fencing())
    datasets: tuple[Name, ...] = ()
    training: tuple[Name, ...] = ()
    services: tuple[Name, ...] = ()
    vaults: tuple[Name, ...] = Field(
        (), description="Where its datasets and models are backed up, and restored live from."
    )
    no_capacity: NoCapacityPolicy = Field(
        NoCapacityPolicy.WAIT,
        description="While no placement has a machine: `wait` asks again, ever more seldom; `go-on-without-training` "
        "skips the training; `fail` fails at once. Only `fail` stops a plan, at its last step.",
    )
    drill_schedule: str | None = Field(None, description="Cron expression of the scheduled drill; none: only by hand.")


class Dataset(Model):
    path: RelativePath = Field(description="Folder under `data/` in every site's bucket.")
    sync: Sync = Field(default_factory=lambda: Sync())
    residency: Name | None = Field(None, description="Residency class; none: may lie anywhere.")
    expectations: str | None = Field(
        None, description="Great Expectations suite (JSON), relative to the topology file."
    )
    backup_chunk_kib: int = Field(
        256, ge=16, le=4096, description="About how long a chunk of a backup is; a power of two. Large files: more."
    )

    @model_validator(mode="after")
    def _cuts_by_a_power_of_two(self) -> Self:
        if self.backup_chunk_kib & (self.backup_chunk_kib - 1):
            raise ValueError(f"backup_chunk_kib: expected a power of two; found {self.backup_chunk_kib}")
        return self


class Residency(Model):
    """A class of data: where its bytes may lie, by a list of jurisdictions or by a policy of its own."""

    jurisdictions: tuple[str, ...] = Field(
        (), description="Where bytes of this class may lie. The short form: a policy is made of it."
    )
    policy: RelativePath | None = Field(
        None,
        description="Instead: a Cedar policy, a file below the topology's folder, e.g. `policies/eu-only.cedar`.",
    )
    _scope: ResidencyScope | None = PrivateAttr(default=None)

    @property
    def scope(self) -> ResidencyScope | None:
        """Whose class it is, where a topology was asked for it."""
        return self._scope

    def within(self, scope: ResidencyScope, **update: object) -> Residency:
        """The same class, as it binds one subject of a topology."""
        bound = self.model_copy(update=update)
        bound._scope = scope
        return bound

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if bool(self.jurisdictions) is (self.policy is not None):
            found = "both" if self.jurisdictions else "neither"
            raise ValueError(f"expected `jurisdictions` or `policy`; found {found}")
        return self


@dataclass(frozen=True, eq=False)
class ResidencyScope:
    """Whose class a `Residency` is.

    Args:
        topology: of which.
        subject: the dataset, or the model that is trained on such data.
        classes: the classes that bind it, by name: each of them has to allow it.
    """

    topology: Topology
    subject: str
    classes: tuple[str, ...]


class TrainingJob(Model):
    dataset: Name
    model: Name = Field(description="Dataset-like name under which the finished model is published.")
    command: tuple[str, ...] = Field(
        min_length=1,
        description="What to run; `{python}` is this interpreter, relative paths are beside the topology file.",
    )
    steps: int = Field(gt=0)
    checkpoint_every_steps: int | None = Field(None, gt=0, description="A checkpoint each so many steps.")
    checkpoint_interval: PlannedInterval | None = Field(
        None, description="Instead: planned from what the job measures. `{}` takes the defaults."
    )
    keep_checkpoints: KeepCheckpoints | None = Field(None, description="What stays of a run; none: everything.")
    checkpoint_compression: CheckpointCompression = Field(default_factory=lambda: CheckpointCompression())
    checkpoint_memory_mib: int | None = Field(
        None, gt=0, description="What saving may hold in memory, twice the state; a larger state is refused. None: any."
    )
    seed: int = Field(0, ge=0)
    step_seconds: float = Field(0.0, ge=0, description="At least this long per step; paces a small example.")
    placements: tuple[Placement, ...] = Field((), description="Where it may run, best first; none: as the site says.")
    recovery: Name = Field("next-placement", description="Registered strategy for a machine that was lost.")

    @model_validator(mode="after")
    def _has_one_interval(self) -> Self:
        if (self.checkpoint_every_steps is None) is (self.checkpoint_interval is None):
            found = "neither" if self.checkpoint_interval is None else "both"
            raise ValueError(f"expected `checkpoint_every_steps` or `checkpoint_interval`; found {found}")
        return self


class Record(Model):
    """The traffic record of a service."""

    provider: Literal["route53", "cloud-dns"]
    site: Name = Field(
        description="The site whose cloud hosts the zone; a failover away from it cannot switch traffic."
    )
    connection: str
    zone: str = Field(description="Hosted zone id (Route 53) or managed zone name (Cloud DNS).")
    name: str = Field(description="Fully qualified record name with the final dot.")
    type: Literal["A", "CNAME", "SRV"] = "CNAME"
    ttl_seconds: int = Field(60, ge=0)
    values: dict[Name, str] = Field(description="Per site the record's value.")
    resolver: str | None = Field(None, description="host:port of the resolver to verify with; none: the system's.")


class Service(Model):
    """A model service: one instance per site behind one traffic record."""

    model: Name
    endpoints: dict[Name, str] = Field(description="Per site the base URL a health probe asks.")
    record: Record
    golden_set: str | None = Field(None, description="Questions whose answers must be equal after a failover (JSON).")


class Topology(Model):
    """Everything Holdfast knows of its world."""

    version: Literal[1]
    sites: dict[Name, Site] = Field(min_length=1)
    groups: dict[Name, Group]
    datasets: dict[Name, Dataset] = Field(default_factory=dict)
    residency: dict[Name, Residency] = Field(default_factory=dict)
    training: dict[Name, TrainingJob] = Field(default_factory=dict)
    services: dict[Name, Service] = Field(default_factory=dict)
    vaults: dict[Name, Vault] = Field(default_factory=dict)
    airflow: Airflow = Field(default_factory=lambda: Airflow())
    audit: Audit | None = Field(None, description="Sealed exports of audit events.")
    cost: Cost | None = Field(None, description="What standing by and drills cost, from the clouds' own bills.")
    _path: Path = PrivateAttr(default=Path("holdfast.yaml"))
    #: Writes decisions down (`holdfast.engine.policy.DecisionLog`); the runtime sets it.
    _decisions: Any = PrivateAttr(default=None)
    #: Policy files that were read (`holdfast.engine.policy.texts`), by their path in the topology.
    _policies: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    def beside(self, relative: str) -> Path:
        """A path the topology names, relative to its own folder."""
        return (self._path.parent / Path(relative).expanduser()).resolve()

    def site(self, name: str) -> Site:
        return self._named("sites", name, self.sites)

    def group(self, name: str) -> Group:
        return self._named("groups", name, self.groups)

    def dataset(self, name: str) -> Dataset:
        return self._named("datasets", name, self.datasets)

    def job(self, name: str) -> TrainingJob:
        return self._named("training", name, self.training)

    def service(self, name: str) -> Service:
        return self._named("services", name, self.services)

    def vault(self, name: str) -> Vault:
        return self._named("vaults", name, self.vaults)

    def lies_encrypted(self, dataset: str, site: str) -> bool:
        """Whether Holdfast encrypts a dataset at a site.

        One whose policy names a key lies plain at the site its group calls active in the topology, where the services'
        own programs write it, and encrypted at every other.
        """
        if self.dataset(dataset).sync.encrypt is None:
            return False
        holders = [one.sites for one in self.groups.values() if dataset in one.datasets and site in one.sites.all()]
        return any(sites.active != site for sites in holders)

    def residency_of(self, dataset: str) -> Residency | None:
        """The residency class of a dataset, ``None`` when it may lie anywhere."""
        name = self.dataset(dataset).residency
        return None if name is None else self.residency[name].within(ResidencyScope(self, dataset, (name,)))

    def _named(self, kind: str, name: str, values: dict[str, _T]) -> _T:
        try:
            return values[name]
        except KeyError:
            raise UnknownName(
                f"unknown name in `{kind}`",
                where=str(self._path),
                expected=f"one of {', '.join(sorted(values)) or '(none defined)'}",
                found=repr(name),
            ) from None

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        from holdfast.engine.config.references import broken_references

        broken = broken_references(self)
        if broken:
            raise ValueError("\n".join(broken))
        return self
