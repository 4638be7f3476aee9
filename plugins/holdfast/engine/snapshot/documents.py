"""Frozen JSON documents with one spelling: RFC 8785 bytes, times in UTC with six digits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import rfc8785
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, PlainSerializer


def iso_utc(moment: datetime) -> str:
    """``2026-01-02T03:04:05.000006Z``: always UTC, always microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def in_utc(moment: datetime) -> datetime:
    """Raises ValueError: its year in UTC is none from 1 to 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"expected a time in the years 1 to 9999 in UTC; found {moment.isoformat()}") from None


UtcTime = Annotated[
    AwareDatetime,
    AfterValidator(in_utc),
    PlainSerializer(iso_utc, return_type=str, when_used="json"),
]


class Document(BaseModel):
    """A record that lies in a bucket. Unknown fields are refused: a later format has another ``format``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """The one spelling of this document (RFC 8785)."""
        return canonical(self.model_dump(mode="json"))


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON."""
    return rfc8785.dumps(value)
