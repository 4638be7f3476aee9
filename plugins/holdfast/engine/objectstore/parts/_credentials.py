"""A provider's credentials, kept until shortly before they expire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from holdfast.engine.objectstore.access import CredentialProvider, Credentials
from holdfast.engine.objectstore.credentials import RENEW_BEFORE_EXPIRY
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.errors import HoldfastError


class KeptCredentials:
    """Asks a provider once and again before the end of what it gave.

    Args:
        provider: where credentials come from.
        where: whose they are, for messages.
        now: the wall clock, timezone-aware.
    """

    def __init__(
        self, provider: CredentialProvider, where: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._provider = provider
        self._where = where
        self._now = now
        self._lock = threading.Lock()
        self._kept: Credentials | None = None
        self._until: datetime | None = None

    def values(self) -> Mapping[str, str | None]:
        """What is valid now. Raises PermissionRefused when the provider gives nothing."""
        with self._lock:
            if self._kept is None or (self._until is not None and self._now() >= self._until):
                self._kept = self._ask()
                self._until = self._renew_at(self._kept.expires_at)
            return self._kept.values

    def _ask(self) -> Credentials:
        try:
            return self._provider()
        except HoldfastError:
            raise
        except Exception as error:
            raise PermissionRefused(
                "the login gave no credentials",
                where=self._where,
                found=f"{type(error).__name__}: {error}"[:300],
                expected="a login in the site's connection, or credentials of the environment",
                fix="Check the site's connection",
            ) from None

    def _renew_at(self, expires_at: datetime | None) -> datetime | None:
        if expires_at is None:
            return None
        life = (expires_at - self._now()).total_seconds()
        return expires_at - min(RENEW_BEFORE_EXPIRY, RENEW_BEFORE_EXPIRY * max(0.0, life) / 120)
