"""Traffic records in Google Cloud DNS, through the v1 REST API and its bundled description."""

from __future__ import annotations

import json
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.traffic.change import ChangeConflict, Held, RecordSet
from holdfast.engine.traffic.interface import TrafficError, TrafficUnavailable
from holdfast.errors import ConfigError

_SCOPES = ("https://www.googleapis.com/auth/ndev.clouddns.readwrite",)
#: What the API answers to a change that is not on what is held: gone, there already, or different.
_CONFLICTS = {404, 409, 412}
_UNAVAILABLE = {408, 429, 500, 502, 503, 504}


class CloudDnsZone:
    """A managed zone.

    Args:
        zone: the managed zone's name.
        connection: Airflow's Google connection. ``extra.project`` names the project; ``extra.endpoint_url`` (Holdfast's
            own field) leads to an emulator; ``extra.is_anonymous`` sends no credentials; else ``extra.keyfile_dict``,
            ``extra.key_path`` or the environment's default credentials are used.
        timeout_seconds: of one request.
    """

    def __init__(self, zone: str, connection: Connection, *, timeout_seconds: float) -> None:
        self._zone = zone
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._project = str(connection.extra.get("project") or connection.extra.get("project_id") or "")
        if not self._project:
            raise ConfigError(
                "the connection names no project",
                where=f"connection {connection.conn_id!r}, extra.project",
                expected="the Google Cloud project of the zone",
                found="nothing",
            )
        self._service: Any = None

    def read(self, record_name: str, record_type: str, companion_name: str) -> Held:
        """Both records. They are read one after the other; `replace` finds out when one changed in between."""
        return Held(self._get(record_name, record_type), self._get(companion_name, "TXT"))

    def replace(self, deletions: tuple[RecordSet, ...], additions: tuple[RecordSet, ...]) -> None:
        body = {"deletions": [_body(one) for one in deletions], "additions": [_body(one) for one in additions]}
        request = self._api().changes().create(project=self._project, managedZone=self._zone, body=body)
        self._execute(request, changing=True)

    def _get(self, name: str, kind: str) -> RecordSet | None:
        request = (
            self._api().resourceRecordSets().list(project=self._project, managedZone=self._zone, name=name, type=kind)
        )
        found = self._execute(request)["rrsets"]
        if not found:
            return None
        one = found[0]
        if "routingPolicy" in one:
            raise ConfigError(
                "the record has a routing policy, which Holdfast does not switch",
                where=f"{name} {kind}",
                expected="a plain record set",
                found="routingPolicy",
            )
        return RecordSet(one["name"], one["type"], int(one["ttl"]), tuple(one["rrdatas"]))

    def _execute(self, request: Any, *, changing: bool = False) -> Any:
        import httplib2  # type: ignore[import-untyped, unused-ignore]  # ships no types
        from google.auth.exceptions import GoogleAuthError, TransportError
        from googleapiclient.errors import HttpError

        where = f"zone {self._zone} of project {self._project}"
        try:
            return request.execute(num_retries=0)
        except HttpError as error:
            status, found = int(error.resp.status), f"{error.resp.status} {error.reason}"
            if status in _UNAVAILABLE:
                raise TrafficUnavailable("Cloud DNS did not do it", where=where, found=found) from error
            # A zone that is gone is a 404 too, but no later attempt would find another.
            if changing and status in _CONFLICTS and "managedZone" not in str(error.reason):
                raise ChangeConflict("Cloud DNS holds something else", where=where, found=found) from error
            raise ConfigError(
                "Cloud DNS refused", where=where, expected="an existing zone and the right to change it", found=found
            ) from error
        except (OSError, httplib2.HttpLib2Error, TransportError) as error:
            self._service = None  # a broken connection is not used again
            raise TrafficUnavailable(
                "Cloud DNS did not answer",
                where=where,
                expected=f"an answer within {self._timeout_seconds:g} s",
                found=f"{type(error).__name__}: {error}",
            ) from error
        except GoogleAuthError as error:
            raise ConfigError(
                "no credentials for Cloud DNS", where=f"connection {self._connection.conn_id!r}", found=str(error)
            ) from error
        except ValueError as error:
            raise TrafficUnavailable(
                "Cloud DNS answered something else than JSON", where=where, found=str(error)
            ) from error

    def _api(self) -> Any:
        if self._service is None:
            from googleapiclient.discovery import build

            options = {}
            if self._connection.extra.get("endpoint_url"):
                options["api_endpoint"] = self._connection.extra["endpoint_url"]
            try:
                self._service = build(
                    "dns", "v1", http=self._http(), static_discovery=True, cache_discovery=False, client_options=options
                )
            except (OSError, ValueError) as error:
                raise TrafficError("the Cloud DNS client cannot be built", found=str(error)) from error
        return self._service

    def _http(self) -> Any:
        """A transport with a timeout on every call: the library's own has none for connecting."""
        import google.auth
        import google_auth_httplib2  # type: ignore[import-untyped, unused-ignore]  # ships no types
        import httplib2
        from google.auth.exceptions import GoogleAuthError
        from google.oauth2 import service_account

        plain = httplib2.Http(timeout=self._timeout_seconds)
        extra = self._connection.extra
        if extra.get("is_anonymous"):
            return plain
        try:
            if extra.get("keyfile_dict"):
                key = extra["keyfile_dict"]
                credentials: Any = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                    json.loads(key) if isinstance(key, str) else key, scopes=_SCOPES
                )
            elif extra.get("key_path"):
                credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
                    extra["key_path"], scopes=_SCOPES
                )
            else:
                credentials, _ = google.auth.default(scopes=_SCOPES)
        except (GoogleAuthError, OSError, ValueError) as error:
            # The error may quote the key: name the connection only.
            raise ConfigError(
                "the connection's credentials cannot be used",
                where=f"connection {self._connection.conn_id!r}",
                expected="extra.keyfile_dict, extra.key_path, default credentials or is_anonymous",
                found=type(error).__name__,
            ) from None
        return google_auth_httplib2.AuthorizedHttp(credentials, http=plain)


def _body(record: RecordSet) -> dict[str, Any]:
    return {"name": record.name, "type": record.type, "ttl": record.ttl_seconds, "rrdatas": list(record.values)}
