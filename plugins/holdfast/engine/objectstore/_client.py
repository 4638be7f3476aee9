"""What the cloud leaves share: client options, and credential providers in the form obstore calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from holdfast.engine.objectstore.access import CredentialProvider, StoreAccess
from holdfast.engine.objectstore.timeouts import Timeouts


def client_arguments(access: StoreAccess, timeouts: Timeouts, request_seconds: float) -> dict[str, Any]:
    """Explicit timeouts, no retries of obstore's own (the retry decorator knows what may be retried), the credentials."""
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
    if access.credentials is not None:
        arguments["credential_provider"] = _in_obstores_form(access.credentials)
    return arguments


def _in_obstores_form(provider: CredentialProvider) -> Callable[[], dict[str, Any]]:
    def provide() -> dict[str, Any]:
        credentials = provider()
        return {**credentials.values, "expires_at": credentials.expires_at}

    return provide
