"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.errors import ConfigError


def parse_moment(text: str | None, where: str) -> datetime | None:
    """ISO 8601, in UTC where no zone is named; nothing of nothing. Raises ConfigError."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "this is no moment", where=where, expected="ISO 8601, e.g. 2026-11-29T12:00:00Z", found=repr(text[:100])
        ) from None
    return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
