"""What the cloud leaves share: how an obstore client is set up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.credentials import WatchedCredentials
from holdfast.engine.objectstore.timeouts import RequestLimits


def client_arguments(
    access: StoreAccess,
    credentials: WatchedCredentials | None,
    limits: RequestLimits,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Explicit timeouts, the credentials, and no retries of obstore's own: the retry decorator knows better."""
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=limits.connect_seconds),
        "timeout": timedelta(seconds=limits.total_seconds),
        "allow_http": bool(access.endpoint and access.endpoint.startswith("http://")),
        "user_agent": "holdfast",
    }
    if headers:
        options["default_headers"] = dict(headers)
    if limits.silence_seconds is not None:
        options["read_timeout"] = timedelta(seconds=limits.silence_seconds)
    arguments: dict[str, Any] = {
        "client_options": options,
        "retry_config": {
            "max_retries": 0,
            "retry_timeout": timedelta(seconds=limits.total_seconds),
            "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=1), "base": 2},
        },
    }
    if credentials is not None:
        arguments["credential_provider"] = credentials
    return arguments
