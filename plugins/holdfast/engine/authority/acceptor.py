"""The acceptor object ``authority/<group>``: what one store holds of a group's register, and its bytes.

docs/formats/authority.md specifies the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785

from holdfast.engine.authority.interface import AuthorityError, EpochState, Operation

FORMAT = "holdfast.acceptor/1"
_ACCEPTOR_FIELDS = frozenset({"format", "group", "promised", "accepted", "value", "write_id"})
_STATE_FIELDS = frozenset(EpochState.__dataclass_fields__)
_OPERATION_FIELDS = frozenset(Operation.__dataclass_fields__)


class AcceptorUnreadable(AuthorityError):
    """The object is no acceptor of this group in a format this version reads. It is never overwritten."""


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """The rank of one attempt. ``proposer`` is unique per call, so no two attempts share a ballot."""

    round: int
    proposer: str

    def __str__(self) -> str:
        return f"{self.round}.{self.proposer}"


ZERO = Ballot(0, "")


@dataclass(frozen=True, slots=True)
class AcceptorState:
    """The highest ballot promised, and the last value accepted with its ballot."""

    promised: Ballot = ZERO
    accepted: Ballot = ZERO
    value: EpochState | None = None

    @property
    def rank(self) -> Ballot:
        """No lower ballot gets anything here any more."""
        return max(self.promised, self.accepted)


EMPTY = AcceptorState()


def key_of(group: str) -> str:
    """Where an acceptor of this group lies in every site's bucket."""
    return f"authority/{group}"


def encode(group: str, state: AcceptorState, write_id: str) -> bytes:
    """The bytes of an acceptor: canonical JSON (RFC 8785). ``write_id`` makes every write's bytes unlike any other's,
    so an ETag that is a digest of the content never comes back (no ABA)."""
    return rfc8785.dumps(
        {
            "format": FORMAT,
            "group": group,
            "promised": _ballot_to_json(state.promised),
            "accepted": _ballot_to_json(state.accepted),
            "value": None if state.value is None else state_to_json(state.value),
            "write_id": write_id,
        }
    )


def decode(group: str, body: bytes) -> AcceptorState:
    """The acceptor in these bytes. Raises AcceptorUnreadable."""
    try:
        document = json.loads(body)
        if not isinstance(document, dict) or document["format"] != FORMAT or document["group"] != group:
            found = {k: document.get(k) for k in ("format", "group")} if isinstance(document, dict) else type(document)
            raise AcceptorUnreadable(
                "this is no acceptor of the group",
                where=key_of(group),
                expected=f"{FORMAT} of group {group}",
                found=str(found),
                fix="Somebody else wrote here: find out who before anything is promoted",
            )
        _only(document, _ACCEPTOR_FIELDS)
        value = document["value"]
        return AcceptorState(
            promised=_ballot_from_json(document["promised"]),
            accepted=_ballot_from_json(document["accepted"]),
            value=None if value is None else state_from_json(value),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AcceptorUnreadable(
            "the acceptor cannot be read",
            where=key_of(group),
            expected=FORMAT,
            found=f"{type(error).__name__}: {error}",
        ) from None


def state_to_json(state: EpochState) -> dict[str, Any]:
    """The committed state as JSON values, as it stands in an acceptor and in ``--json`` output."""
    operation = state.operation
    return {
        "group": state.group,
        "epoch": state.epoch,
        "active_site": state.active_site,
        "previous_site": state.previous_site,
        "plan_id": state.plan_id,
        "holder": state.holder,
        "reason": state.reason,
        "committed_at": time_to_json(state.committed_at),
        "write_id": state.write_id,
        "operation": None
        if operation is None
        else {
            "plan_id": operation.plan_id,
            "kind": operation.kind,
            "holder": operation.holder,
            "started_at": time_to_json(operation.started_at),
            "expires_at": time_to_json(operation.expires_at),
        },
    }


def state_from_json(document: dict[str, Any]) -> EpochState:
    """The state in this document. Raises ValueError, KeyError or TypeError when it is none."""
    operation = document["operation"]
    _only(document, _STATE_FIELDS)
    if operation is not None:
        _only(operation, _OPERATION_FIELDS)
    return EpochState(
        group=document["group"],
        epoch=int(document["epoch"]),
        active_site=document["active_site"],
        previous_site=document["previous_site"],
        plan_id=document["plan_id"],
        holder=document["holder"],
        reason=document["reason"],
        committed_at=_time_from_json(document["committed_at"]),
        write_id=document["write_id"],
        operation=None
        if operation is None
        else Operation(
            plan_id=operation["plan_id"],
            kind=operation["kind"],
            holder=operation["holder"],
            started_at=_time_from_json(operation["started_at"]),
            expires_at=_time_from_json(operation["expires_at"]),
        ),
    )


def _only(document: dict[str, Any], fields: frozenset[str]) -> None:
    if document.keys() != fields:
        raise ValueError(f"fields {sorted(document.keys() ^ fields)} are unknown or missing")


def time_to_json(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time_from_json(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _ballot_to_json(ballot: Ballot) -> list[int | str] | None:
    return None if ballot == ZERO else [ballot.round, ballot.proposer]


def _ballot_from_json(value: list[Any] | None) -> Ballot:
    if value is None:
        return ZERO
    number, proposer = value
    if type(number) is not int or number < 1 or type(proposer) is not str:
        raise ValueError(f"no ballot: {value!r}")
    return Ballot(number, proposer)
