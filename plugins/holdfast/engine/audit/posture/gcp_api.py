"""Google's REST APIs with the login of a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from holdfast.clock import Clock
from holdfast.engine.audit.posture.interface import CannotTell
from holdfast.engine.audit.posture.rest import JsonApi
from holdfast.engine.config import Connection
from holdfast.engine.objectstore.gcp_login import gcp_credentials, gcp_fields
from holdfast.errors import ConfigError

_HOSTS = {
    "storage": "https://storage.googleapis.com",
    "cloudkms": "https://cloudkms.googleapis.com",
    "iam": "https://iam.googleapis.com",
    "cloudresourcemanager": "https://cloudresourcemanager.googleapis.com",
    "logging": "https://logging.googleapis.com",
    "orgpolicy": "https://orgpolicy.googleapis.com",
    "policyanalyzer": "https://policyanalyzer.googleapis.com",
    "admin": "https://admin.googleapis.com",
}
#: One scope for all but the directory of users, which its own administrator has to delegate.
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_TOKEN_SECONDS = 10


class GcpApi:
    """The services the checks ask.

    Args:
        connection: Airflow's Google connection: ``extra.keyfile_dict``, ``extra.key_path``, ``extra.is_anonymous`` or
            default credentials; ``extra.endpoint_url`` for an emulator of Cloud Storage, ``extra.posture_endpoints``
            (service → URL) for private endpoints and emulators of the others.
        clock: for the pauses between tries.
        transport: of httpx, instead of the network.
    """

    def __init__(self, connection: Connection, clock: Clock, *, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = connection
        self._fields = gcp_fields(connection)
        self._endpoints: dict[str, str] = dict(self._fields.get("posture_endpoints") or {})
        if self._fields.get("endpoint_url"):
            self._endpoints.setdefault("storage", str(self._fields["endpoint_url"]))
        self._http = JsonApi(f"connection {connection.conn_id}", self._headers, clock, transport=transport)

    @property
    def asked_at(self) -> str | None:
        found = self._endpoints.get("storage")
        return found if found and not (urlsplit(found).hostname or "").endswith(".googleapis.com") else None

    @cached_property
    def project(self) -> str:
        """Raises CannotTell."""
        found = self._fields.get("project") or self._fields.get("project_id") or self._keyfile.get("project_id")
        if not found and not self._is_anonymous:
            found = getattr(self._credentials, "project_id", None)
        if not found:
            raise CannotTell("the project is not known", where=self._where, expected="extra.project")
        return str(found)

    @cached_property
    def identity(self) -> str:
        """The service account's address. Raises CannotTell."""
        found = self._keyfile.get("client_email")
        if not found and not self._is_anonymous:
            found = getattr(self._credentials, "service_account_email", None)
        if not found or found == "default":
            raise CannotTell("who logs in is not known", where=self._where, expected="a service account")
        return str(found)

    def get(self, service: str, path: str, **params: str) -> dict[str, Any]:
        return self._http.get(self._url(service, path), params)

    def post(self, service: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._http.post(self._url(service, path), body)

    def pages(self, service: str, path: str, key: str, **params: str) -> list[Any]:
        return list(self._http.pages(self._url(service, path), key, params))

    def bucket(self, name: str) -> dict[str, Any]:
        """A bucket's settings. Raises NotThere, CannotTell."""
        return self.get("storage", f"/storage/v1/b/{quote(name, safe='')}", projection="full")

    def bucket_policy(self, name: str) -> dict[str, Any]:
        """Who may what with a bucket. Raises NotThere, CannotTell."""
        return self.get("storage", f"/storage/v1/b/{quote(name, safe='')}/iam")

    @cached_property
    def project_policy(self) -> dict[str, Any]:
        """Who may what in the project, and what of it is logged. Raises NotThere, CannotTell."""
        path = f"/v1/projects/{self.project}:getIamPolicy"
        return self.post("cloudresourcemanager", path, {"options": {"requestedPolicyVersion": 3}})

    def is_enforced(self, constraint: str) -> bool:
        """Whether a boolean constraint of the organisation's policy holds for the project. Raises CannotTell."""
        policy = self.get("orgpolicy", f"/v2/projects/{self.project}/policies/{constraint}:getEffectivePolicy")
        return any(rule.get("enforce") is True for rule in (policy.get("spec") or {}).get("rules") or ())

    def _url(self, service: str, path: str) -> str:
        host = self._endpoints.get(service)
        if host is None and self.asked_at is not None:
            raise CannotTell(
                "the connection names an endpoint for Cloud Storage alone",
                where=self._where,
                expected=f"extra.posture_endpoints.{service} beside it",
                found=self.asked_at,
            )
        return f"{(host or _HOSTS[service]).rstrip('/')}{path}"

    @property
    def _where(self) -> str:
        return f"connection {self._connection.conn_id!r}"

    @property
    def _is_anonymous(self) -> bool:
        return str(self._fields.get("is_anonymous")).lower() == "true"

    @cached_property
    def _keyfile(self) -> dict[str, Any]:
        found = self._fields.get("keyfile_dict")
        try:
            loaded = json.loads(found) if isinstance(found, str) else found
        except ValueError:
            raise CannotTell("keyfile_dict is not JSON", where=self._where) from None
        return loaded if isinstance(loaded, dict) else {}

    def _headers(self, _: str) -> Mapping[str, str]:
        if self._is_anonymous:
            return {}
        if token := self._fields.get("token"):
            return {"Authorization": f"Bearer {token}"}
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        credentials = self._credentials
        try:
            if not credentials.valid:
                credentials.refresh(partial(Request(), timeout=_TOKEN_SECONDS))
        except GoogleAuthError as error:
            raise CannotTell("there is no token", where=self._where, found=type(error).__name__) from None
        return {"Authorization": f"Bearer {credentials.token}"}

    @cached_property
    def _credentials(self) -> Any:
        try:
            return gcp_credentials(self._connection, _SCOPES)
        except ImportError as error:
            raise CannotTell("google-auth is not installed here", where=self._where, found=str(error)) from None
        except ConfigError as error:
            raise CannotTell(error.what, where=self._where, found=error.found) from None
