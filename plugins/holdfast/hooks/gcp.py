"""The object store's access on Google Cloud, through the Google provider's hook."""

from __future__ import annotations

import threading
from datetime import UTC
from functools import partial
from typing import Any

from holdfast.engine.config import Site
from holdfast.engine.objectstore.access import Credentials, StoreAccess
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.hooks.connections import airflow_connection

TOKEN_TIMEOUT_SECONDS = 10


def gcp_access(site: Site) -> StoreAccess:
    """Endpoint and renewing tokens of a site's connection: a key, impersonation, federation, the environment, or none.

    ``endpoint_url`` in the extra is Holdfast's own field: Airflow's Google connection has none.

    :raises ConfigError: there is no such connection, or it is not a ``google_cloud_platform`` one.
    """
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook, get_field

    connection = airflow_connection(site.connection, conn_type="google_cloud_platform")
    extra = connection.extra_dejson
    endpoint = extra.get("endpoint_url")
    if get_field(extra, "is_anonymous"):
        return StoreAccess(endpoint=endpoint, anonymous=True)
    hook = GoogleBaseHook(gcp_conn_id=site.connection)
    return StoreAccess(endpoint=endpoint, credentials=TokenCredentials(hook, where=f"connection {site.connection!r}"))


class TokenCredentials:
    """The access token of a hook's credentials, asked for anew when google-auth calls it stale.

    :param hook: any Google hook.
    :param where: the connection, for messages.
    """

    def __init__(self, hook: Any, *, where: str) -> None:
        self._hook = hook
        self._where = where
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __call__(self) -> Credentials:
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError

        try:
            with self._lock:
                return self._renewed()
        except TransportError as error:
            raise StoreUnavailable(
                "the token server cannot be reached", where=self._where, found=str(error)[:200]
            ) from None
        except GoogleAuthError as error:
            failure = StoreUnavailable if isinstance(error, RefreshError) and error.retryable else PermissionRefused
            raise failure("the login gave no token", where=self._where, found=str(error)[:200]) from None

    def _renewed(self) -> Credentials:
        from google.auth.credentials import TokenState
        from google.auth.transport.requests import Request

        if self._credentials is None:
            self._credentials = self._hook.get_credentials()
        if self._credentials.token_state is not TokenState.FRESH:
            self._credentials.refresh(partial(Request(), timeout=TOKEN_TIMEOUT_SECONDS))
        expiry = self._credentials.expiry  # naive, in UTC
        return Credentials(
            {"token": self._credentials.token}, expires_at=None if expiry is None else expiry.replace(tzinfo=UTC)
        )
