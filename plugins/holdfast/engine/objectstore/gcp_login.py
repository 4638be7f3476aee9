"""How Google's own clients log in with a connection, without Airflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from holdfast.engine.config import Connection
from holdfast.errors import ConfigError


def gcp_fields(connection: Connection | None) -> dict[str, Any]:
    """The extra of Airflow's Google connection, whose older form has a prefix before each name."""
    extra = {} if connection is None else connection.extra
    return {name.removeprefix("extra__google_cloud_platform__"): value for name, value in extra.items()}


def gcp_credentials(connection: Connection | None, scopes: Sequence[str]) -> Any:
    """google-auth's credentials: ``extra.keyfile_dict``, ``extra.key_path`` or the environment's default ones.

    Raises:
        ConfigError: they cannot be used.
        ImportError: google-auth is not installed.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account

    fields, made = gcp_fields(connection), service_account.Credentials
    try:
        if found := fields.get("keyfile_dict"):
            info = json.loads(found) if isinstance(found, str) else found
            return made.from_service_account_info(info, scopes=scopes)  # type: ignore[no-untyped-call, unused-ignore]
        if path := fields.get("key_path"):
            return made.from_service_account_file(path, scopes=scopes)  # type: ignore[no-untyped-call, unused-ignore]
        return google.auth.default(scopes=scopes)[0]
    except (GoogleAuthError, OSError, ValueError, AttributeError) as error:
        # The error may quote the key. A key that is JSON, and no object, is an AttributeError.
        raise ConfigError(
            "the connection's credentials cannot be used",
            where="the environment" if connection is None else f"connection {connection.conn_id!r}",
            expected="extra.keyfile_dict, extra.key_path or default credentials",
            found=type(error).__name__,
        ) from None
