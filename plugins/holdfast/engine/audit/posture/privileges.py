"""What an identity may do beside what the published policies list.

The published ones (``policies/<cloud>/<role>.json``, copied to docs/security/policies) are the yardstick: whatever an
identity has beyond the union of them, or beyond one role's, is a finding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from holdfast.engine.audit.posture.interface import Judgement, failed, passed
from holdfast.errors import ConfigError

ROLES = (
    "collector",
    "replicator",
    "vault-writer",
    "vault-reader",
    "vault-admin",
    "exporter",
    "shredder",
    "drill",
    "posture",
)


@cache
def published(cloud: str, name: str) -> dict[str, Any]:
    """A published document: of a role, or another one such as ``trust``. Raises ConfigError for another name."""
    file = resources.files("holdfast.engine.audit.posture") / "policies" / cloud / f"{name}.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            "no such policy is published", where=f"{cloud}/{name}", expected=f"a role of {', '.join(ROLES)}"
        ) from None


def published_actions(cloud: str, role: str | None) -> frozenset[str]:
    """The actions of one role, or of all of them together."""
    roles = ROLES if role is None else (role,)
    return frozenset(action for name in roles for action in _ACTIONS[cloud](published(cloud, name)))


def aws_actions(document: Mapping[str, Any]) -> Iterable[str]:
    """What an IAM policy allows; ``NotAction`` is everything but a few, and counts as ``*``."""
    statements = document.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        if statement.get("Effect") != "Allow":
            continue
        found = statement.get("Action", "*")
        yield from [found] if isinstance(found, str) else found


def gcp_permissions(document: Mapping[str, Any]) -> Iterable[str]:
    return list(document.get("includedPermissions", ()))


def azure_actions(document: Mapping[str, Any]) -> Iterable[str]:
    """Actions of both planes, of a file for ``az role definition create`` or of ARM's answer."""
    for one in document.get("permissions") or [document]:
        for name in ("Actions", "DataActions", "actions", "dataActions"):
            yield from one.get(name) or ()


_ACTIONS = {"aws": aws_actions, "gcp": gcp_permissions, "azure": azure_actions}


@dataclass(frozen=True, slots=True)
class Grant:
    """What one policy or role gives.

    Args:
        source: its name, for people.
        actions: what it allows; may hold ``*`` and ``?``.
    """

    source: str
    actions: tuple[str, ...]


def judged(cloud: str, identity: str, grants: Iterable[Grant], role: str | None) -> Judgement:
    """Whether the grants stay within what is published.

    Args:
        cloud: ``aws``, ``gcp`` or ``azure``.
        identity: whose they are, for people.
        grants: all of them.
        role: the published role it is meant to have; ``None``: any of them.
    """
    allowed = published_actions(cloud, role)
    expected = f"nothing beyond the published policy of {role or 'its roles'}"
    grants = list(grants)
    extra: dict[str, list[str]] = {}
    for grant in grants:
        beyond = sorted({action for action in grant.actions if not _within(action, allowed)})
        if beyond:
            extra[grant.source] = beyond
    facts = {"identity": identity, "grants": [grant.source for grant in grants], "beyond": extra, "role": role}
    if not grants:
        return failed(
            expected, f"{identity} has no grant that can be seen here", "Look where its rights come from", **facts
        )
    if not extra:
        return passed(expected, f"{identity} stays within it", **facts)
    wide = sorted({action for actions in extra.values() for action in actions if "*" in action or "?" in action})
    shown = sorted({action for actions in extra.values() for action in actions})
    said = f"{len(shown)} beyond it, the first: {', '.join(shown[:5])}" + (
        f"; wildcards: {', '.join(wide[:5])}" if wide else ""
    )
    return failed(expected, said, "Replace these grants by docs/security/policies", **facts)


def _within(action: str, allowed: frozenset[str]) -> bool:
    """An action without a wildcard that is published; IAM's and Azure's actions know no case."""
    if "*" in action or "?" in action:
        return False
    folded = action.lower()
    return any(fnmatchcase(folded, one.lower()) for one in allowed)
