"""Credentials in the form obstore asks for them: renewed before they expire, their failures told as their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.engine.objectstore.access import CredentialProvider, StoreAccess
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.errors import HoldfastError

#: obstore uses credentials to their very end; a request that is then under way would be refused.
RENEW_BEFORE_EXPIRY = timedelta(seconds=60)


class WatchedCredentials:
    """A provider as obstore calls it.

    obstore caches what it is given until ``expires_at`` and then asks again. Here credentials are given an earlier end:
    a minute, or half of a life shorter than two.

    Args:
        provider: where credentials come from.
        now: the wall clock, timezone-aware.
    """

    def __init__(self, provider: CredentialProvider, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._provider = provider
        self._now = now
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def __call__(self) -> dict[str, Any]:
        try:
            credentials = self._provider()
        except BaseException as error:
            with self._lock:
                self._error = error
            raise
        with self._lock:
            self._error = None
        return {**credentials.values, "expires_at": self._renew_at(credentials.expires_at)}

    def take_error(self, where: str) -> HoldfastError | None:
        """Why the last call gave no credentials, once; ``None`` when it did."""
        with self._lock:
            error, self._error = self._error, None
        if error is None or isinstance(error, HoldfastError):
            return error
        return PermissionRefused(
            "the connection's login gave no credentials",
            where=where,
            found=f"{type(error).__name__}: {error}"[:300],
            fix="Check the site's connection",
        )

    def _renew_at(self, expires_at: datetime | None) -> datetime | None:
        if expires_at is None:
            return None
        life = expires_at - self._now()
        # obstore takes no other time zone object than Python's own UTC.
        return expires_at.astimezone(UTC) - min(RENEW_BEFORE_EXPIRY, max(life, timedelta()) / 2)


def watched(access: StoreAccess) -> WatchedCredentials | None:
    """The provider of an access, watched; ``None`` when the environment's credentials apply or none at all."""
    return None if access.credentials is None else WatchedCredentials(access.credentials)
