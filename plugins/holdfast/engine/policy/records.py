"""A decision as it is written down: one line of canonical JSON, chained to the writer's line before it.

docs/formats/decision.md specifies the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.policy.request import Action, Kind, Service
from holdfast.errors import HoldfastError

FORMAT: Final = "holdfast.decision/1"
#: Where decisions lie in a site's bucket.
ROOT = "decisions/"
#: What the first line of a writer is chained to.
NOTHING_BEFORE = "0" * 64


class DecisionLogDamaged(HoldfastError):
    """A part of the decision log is not what a writer wrote: changed, out of order, or with a hole."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Principal(_Part):
    """Who asked."""

    service: Service
    group: str


class Subject(_Part):
    """What would be moved or kept."""

    kind: Kind
    name: str
    residency_class: str = Field(alias="class")
    group: str
    tier: int


class Where(_Part):
    """A site, as the topology had it."""

    site: str
    cloud: str
    region: str
    jurisdiction: str


class DecisionRecord(_Part):
    """One decision.

    Args:
        id: ``<writer>-<seq, 8 digits>``.
        at: when it was decided, by the writer's clock.
        writer: who wrote it down: a spool folder of one machine, which one process at a time has.
        seq: the writer's how manieth line, from 1, without holes.
        previous: SHA-256 of the writer's line before, without its newline; of the first one 64 zeros.
        policy: the policy's name; ``policy_sha256`` is of its text.
        determining: the policies in it that decided; none: nothing permits it.
        why: one sentence.
    """

    format: Literal["holdfast.decision/1"] = FORMAT
    id: str
    at: datetime
    writer: str
    seq: int = Field(ge=1)
    previous: str = Field(pattern=r"^[0-9a-f]{64}$")
    action: Action
    principal: Principal
    resource: Subject
    source: Where | None
    target: Where
    purpose: str
    encrypted: bool
    allowed: bool
    policy: str
    policy_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    determining: tuple[str, ...]
    why: str

    def to_line(self) -> bytes:
        """Its bytes, without a newline: RFC 8785."""
        document = self.model_dump(mode="json", by_alias=True)
        document["at"] = f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return rfc8785.dumps(document)


def from_line(line: bytes, where: str) -> DecisionRecord:
    """A record from its bytes. Raises DecisionLogDamaged: it is none of this version."""
    try:
        return DecisionRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DecisionLogDamaged(
            "a line of the decision log cannot be read",
            where=where,
            expected=FORMAT,
            found=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
        ) from None


def line_hash(line: bytes) -> str:
    """What the next line names as ``previous``."""
    return hashlib.sha256(line).hexdigest()


def object_key(first: DecisionRecord) -> str:
    """Where the object that begins with this line lies."""
    return f"{ROOT}{first.at.astimezone(UTC):%Y/%m/%d/%H}/{first.writer}-{first.seq:08}.jsonl"


def read_lines(data: bytes, where: str) -> Iterator[tuple[DecisionRecord, bytes]]:
    """The records of an object or a spool file, each with its bytes. Raises DecisionLogDamaged."""
    if data and not data.endswith(b"\n"):
        raise DecisionLogDamaged("the last line is not whole", where=where, expected="a newline at the end")
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        yield from_line(line, f"{where}, line {number}"), line
