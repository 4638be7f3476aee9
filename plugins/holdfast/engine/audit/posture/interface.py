"""What a posture check is, what it found, and what a cloud's leaf has to offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol

from holdfast.engine.config import Site
from holdfast.errors import HoldfastError


class CannotTell(HoldfastError):
    """An API refused, does not answer, or does not know what was asked: the check's status is unknown, not pass."""


class NotThere(CannotTell):
    """What was asked for does not exist; what that means, each check knows."""


class Status(StrEnum):
    """How a check ended. Only ``PASS`` is good news."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    #: It could not be looked at, or what was seen does not suffice to tell.
    UNKNOWN = "unknown"
    #: It has no meaning here, e.g. the rotation of a key that the provider keeps itself.
    NOT_APPLICABLE = "not-applicable"


class Severity(StrEnum):
    """How bad it is when it fails; the names and the order are OCSF's."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Check:
    """One question that is asked of every cloud.

    Args:
        check_id: stable, e.g. ``public-access``.
        title: the good state, in one line.
        means: why it matters.
        severity: when it fails.
        controls: framework → ids whose evidence it is, e.g. ``{"ISO 27001:2022": ("A.8.24",)}``. A mapping for whoever
            collects evidence; it claims no compliance.
        of_site: asked of each site; else of the account, project or subscription behind them.
    """

    check_id: str
    title: str
    means: str
    severity: Severity
    controls: Mapping[str, tuple[str, ...]]
    of_site: bool = True


@dataclass(frozen=True, slots=True)
class Resource:
    """What was looked at.

    Args:
        cloud: ``aws``, ``gcp``, ``azure`` or ``local``.
        kind: e.g. ``bucket``, ``account``, ``identity``.
        uid: the cloud's own name for it, e.g. an ARN.
        region: of the site; empty for what has none.
        account: AWS account, Google project or Azure subscription; empty where it is not known.
    """

    cloud: str
    kind: str
    uid: str
    region: str = ""
    account: str = ""


@dataclass(frozen=True)
class Judgement:
    """What one look came to.

    Args:
        status: of the check.
        expected: what would pass.
        found: what is there, in one sentence.
        evidence: the facts it rests on, JSON-able, without secrets.
        remediation: what to do; empty where nothing is to be done.
    """

    status: Status
    expected: str
    found: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remediation: str = ""


@dataclass(frozen=True)
class Result:
    """One check of one resource.

    Args:
        check: which.
        site: whose; ``None`` for an account.
        resource: what was looked at.
        status, expected, found, evidence, remediation: as in `Judgement`.
        asked_at: the endpoint, where it is not the cloud's own: what an emulator says proves nothing of a cloud.
    """

    check: Check
    site: str | None
    resource: Resource
    status: Status
    expected: str
    found: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remediation: str = ""
    asked_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "check": self.check.check_id,
            "title": self.check.title,
            "severity": self.check.severity.value,
            "controls": {name: list(ids) for name, ids in self.check.controls.items()},
            "site": self.site,
            "resource": asdict(self.resource),
            "status": self.status.value,
            "expected": self.expected,
            "found": self.found,
            "evidence": dict(self.evidence),
            "remediation": self.remediation,
            "asked_at": self.asked_at,
        }


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on something counts as stale.

    Args:
        unused: a credential that was not used for so long.
        age: a credential that was not renewed for so long.
        rotation: the longest period after which a key of a KMS must be rotated.
    """

    unused: timedelta = timedelta(days=90)
    age: timedelta = timedelta(days=365)
    rotation: timedelta = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Place:
    """A site as the checks see it.

    Args:
        name, site: of the topology.
        must_lock: something at it is meant to be immutable: a vault with lock days, or the audit ledger.
    """

    name: str
    site: Site
    must_lock: bool = False


#: Asks a cloud one question. Raises CannotTell.
Ask = Callable[[], Judgement]


@dataclass(frozen=True)
class Subject:
    """One thing to look at, and by check id what to ask of it. Making one asks the cloud nothing.

    Args:
        resource: what it is; a call, since an account is known only once it was asked for. Raises CannotTell.
        asks: by check id.
        fallback: what stands for the resource where it cannot be told.
    """

    resource: Callable[[], Resource]
    asks: Mapping[str, Ask]
    fallback: Resource


class Leaf(Protocol):
    """The checks of one cloud, with one connection. Nothing here writes, but that AWS makes a credential report."""

    @property
    def asked_at(self) -> str | None:
        """The endpoint where it is not the cloud's own, e.g. an emulator's."""

    def bucket(self, place: Place) -> Subject:
        """The bucket of a site."""

    def accounts(self) -> list[Subject]:
        """The account behind the connection, and the identity it logs in as."""


def passed(expected: str, found: str, **evidence: Any) -> Judgement:
    return Judgement(Status.PASS, expected, found, evidence)


def failed(expected: str, found: str, remediation: str, **evidence: Any) -> Judgement:
    return Judgement(Status.FAIL, expected, found, evidence, remediation)


def unknown(expected: str, found: str, remediation: str = "", **evidence: Any) -> Judgement:
    return Judgement(Status.UNKNOWN, expected, found, evidence, remediation)


def not_applicable(expected: str, found: str, **evidence: Any) -> Judgement:
    return Judgement(Status.NOT_APPLICABLE, expected, found, evidence)
