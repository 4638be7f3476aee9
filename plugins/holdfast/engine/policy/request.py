"""A question to a policy: may this service do that with these bytes, from here to there?

Names go to Cedar as data (entity ids and attributes), never as text of a policy: a name with quotes or Cedar in it is
only a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from holdfast.engine.config.models import Site


class Action(StrEnum):
    #: Keep at a site: as a backup, or as what a group is made active with.
    STORE = "store"
    #: Copy to a site.
    COPY = "copy"
    #: Train on at a site, or go on training from there.
    TRAIN = "train"
    #: Restore from a backup at a site.
    RESTORE = "restore"


class Kind(StrEnum):
    DATASET = "dataset"
    MODEL = "model"
    CHECKPOINT = "checkpoint"
    BACKUP = "backup"


class Service(StrEnum):
    REPLICATION = "replication"
    VAULT = "vault"
    CHECKPOINT = "checkpoint"
    TRAINING = "training"
    RECOVERY = "recovery"
    DRILL = "drill"


@dataclass(frozen=True, slots=True)
class Place:
    """A site as a policy sees it."""

    site: str
    cloud: str
    region: str
    jurisdiction: str

    @classmethod
    def of(cls, name: str, site: Site) -> Place:
        return cls(name, str(site.cloud), site.region, site.jurisdiction)

    def as_dict(self) -> dict[str, str]:
        return {"site": self.site, "cloud": self.cloud, "region": self.region, "jurisdiction": self.jurisdiction}


@dataclass(frozen=True, slots=True)
class Resource:
    """What would be moved or kept.

    Args:
        kind: dataset, model, checkpoint or backup.
        name: of the dataset, model, run or backup's source.
        residency_class: the class that is asked for.
        group: the protection group; empty: none.
        tier: the group's; 0: none.
    """

    kind: Kind
    name: str
    residency_class: str
    group: str = ""
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Args:
        service: who acts, of the resource's group.
        source: where the bytes come from; ``None``: from no site of the topology.
        target: where they would lie.
        purpose: ``replication``, ``backup``, ``training``, ``recovery`` or ``restore-drill``.
        encrypted: by Holdfast, before they lie there.
    """

    action: Action
    service: Service
    resource: Resource
    source: Place | None
    target: Place
    purpose: str
    encrypted: bool

    @property
    def principal(self) -> str:
        """``<group>/<service>``."""
        return f"{self.resource.group}/{self.service}"

    def as_cedar(self) -> dict[str, Any]:
        """The request as cedarpy takes it."""
        context: dict[str, Any] = {
            "target": self.target.as_dict(),
            "purpose": self.purpose,
            "encrypted": self.encrypted,
        }
        if self.source is not None:
            context["source"] = self.source.as_dict()
        return {
            "principal": self._service_uid,
            "action": {"type": "Holdfast::Action", "id": str(self.action)},
            "resource": self._resource_uid,
            "context": context,
        }

    def entities(self) -> list[dict[str, Any]]:
        """What the policy may know of those it speaks of."""
        wanted = self.resource
        return [
            {
                "uid": self._service_uid,
                "attrs": {"service": str(self.service), "group": wanted.group},
                "parents": [],
            },
            {
                "uid": self._resource_uid,
                "attrs": {
                    "name": wanted.name,
                    "class": wanted.residency_class,
                    "group": wanted.group,
                    "tier": wanted.tier,
                },
                "parents": [{"type": "Holdfast::Class", "id": wanted.residency_class}],
            },
        ]

    @property
    def _service_uid(self) -> dict[str, str]:
        return {"type": "Holdfast::Service", "id": self.principal}

    @property
    def _resource_uid(self) -> dict[str, str]:
        return {"type": f"Holdfast::{self.resource.kind.capitalize()}", "id": self.resource.name}
