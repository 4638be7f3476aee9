"""What the cloud leaves share: how an obstore client is set up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.credentials import WatchedCredentials
from holdfast.engine.objectstore.timeouts import Timeouts


def client_arguments(
    access: StoreAccess, credentials: WatchedCredentials | None, timeouts: Timeouts, request_seconds: float
) -> dict[str, Any]:
    """Explicit timeouts, the credentials, and no retries of obstore's own: the retry decorator knows better."""
    connect = timedelta(seconds=min(timeouts.connect_seconds, request_seconds))
    arguments: dict[str, Any] = {
        "client_options": {
            "connect_timeout": connect,
            "timeout": timedelta(seconds=request_seconds),
            "allow_http": bool(access.endpoint and access.endpoint.startswith("http://")),
            "user_agent": "holdfast",
        },
        "retry_config": {
            "max_retries": 0,
            "retry_timeout": timedelta(seconds=request_seconds),
            "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=1), "base": 2},
        },
    }
    if credentials is not None:
        arguments["credential_provider"] = credentials
    return arguments
