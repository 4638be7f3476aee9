"""Google Cloud Storage's object retention (Object Retention Lock): a retention per object.

Without versions in the bucket a locked object can be neither removed nor overwritten; with versions it can be hidden.
(`Object Retention Lock <https://cloud.google.com/storage/docs/object-lock>`_)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    StoreUnavailable,
)
from holdfast.engine.objectstore.gcp_login import gcp_credentials, gcp_fields
from holdfast.engine.vault.locks._common import is_firmer
from holdfast.engine.vault.locks.interface import LockCapability, LockedObject, LockMode
from holdfast.errors import ConfigError

_T = TypeVar("_T")
_TIMEOUT = (3.0, 10.0)
_BUDGET_SECONDS = 15.0
_SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
_MODES = {"Locked": LockMode.COMPLIANCE, "Unlocked": LockMode.GOVERNANCE}
_NAMES = {mode: name for name, mode in _MODES.items()}


class GcsLocks:
    """The locks of one bucket and prefix.

    Args:
        site_name, site: where it is.
        connection: Airflow's Google connection: ``extra.keyfile_dict``, ``extra.key_path`` or default credentials; for
            an emulator ``extra.endpoint_url`` and ``extra.is_anonymous``.
        client: a ``google.cloud.storage.Client`` to use instead of one made from the connection.
    """

    def __init__(self, site_name: str, site: Site, connection: Connection, *, client: Any = None) -> None:
        self._site, self._connection, self._given = site, connection, client
        self._prefix = f"{site.prefix}/" if site.prefix else ""
        self._name = f"{site_name} (gs://{'/'.join(filter(None, (site.bucket, site.prefix)))})"

    @property
    def name(self) -> str:
        return self._name

    def capability(self) -> LockCapability:
        bucket = self._call("get bucket", lambda options: self._bucket().reload(**options) or self._bucket())
        mode = bucket.object_retention_mode
        return LockCapability("gcs", enforces=mode == "Enabled", why=f"its object retention is {mode or 'off'}")

    def state(self, key: str) -> LockedObject:
        return self._locked(self._blob(key))

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:
        blob = self._blob(key)
        now = self._locked(blob)
        if is_firmer(now, until, mode):
            return
        firmest = LockMode.COMPLIANCE if now.mode is LockMode.COMPLIANCE else mode
        blob.retention.mode = _NAMES[firmest]
        blob.retention.retain_until_time = max(until, now.until or until)
        self._call(f"patch {key}", lambda options: blob.patch(if_generation_match=blob.generation, **options))

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        listed = self._call(
            f"list {prefix}",
            lambda options: self._client().list_blobs(
                self._site.bucket, prefix=self._prefix + prefix, versions=True, **options
            ),
        )
        pages = iter(listed)
        while True:
            blob = self._call(f"list {prefix}", lambda _: next(pages, None))
            if blob is None:
                return
            yield self._locked(blob)

    def remove(self, key: str) -> None:
        versions = [found for found in self.objects(key) if found.key == key]
        for found in versions:
            if found.until is not None and found.until > datetime.now(UTC):
                raise PermissionRefused(
                    "the object is locked", where=f"{self.name}: {key}", found=f"until {found.until.isoformat()}"
                )
        for found in versions:
            self._delete(key, int(found.version or 0))

    def _delete(self, key: str, generation: int) -> None:
        blob = self._bucket().blob(self._prefix + key, generation=generation)
        self._call(f"delete {key}", lambda options: blob.delete(**options))

    def reveal(self, found: LockedObject) -> None:
        bucket, path = self._bucket(), self._prefix + found.key
        generation = int(found.version or 0)
        self._call(
            f"copy {found.key}",
            lambda options: bucket.copy_blob(
                bucket.blob(path),
                bucket,
                path,
                source_generation=generation,
                if_source_generation_match=generation,
                **options,
            ),
        )

    def _locked(self, blob: Any) -> LockedObject:
        until, mode = blob.retention.retain_until_time, _MODES.get(blob.retention.mode or "")
        return LockedObject(
            blob.name.removeprefix(self._prefix),
            blob.time_created,
            until if mode is not None else None,
            mode if until is not None else None,
            hidden=blob.time_deleted is not None,
            version=str(blob.generation),
        )

    def _blob(self, key: str) -> Any:
        blob = self._bucket().blob(self._prefix + key)
        self._call(f"get {key}", lambda options: blob.reload(**options))
        return blob

    def _bucket(self) -> Any:
        if not hasattr(self, "_made_bucket"):
            self._made_bucket = self._client().bucket(self._site.bucket)
        return self._made_bucket

    def _call(self, what: str, ask: Callable[[dict[str, Any]], _T]) -> _T:
        self._client()
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.retry import DEFAULT_RETRY
        from requests.exceptions import RequestException

        where = f"{self.name}: {what}"
        try:
            return ask({"timeout": _TIMEOUT, "retry": DEFAULT_RETRY.with_timeout(_BUDGET_SECONDS)})
        except exceptions.NotFound as error:
            raise ObjectNotFound("no object has this key", where=where, found=error.message) from None
        except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
            raise PermissionRefused("refused: no right, or locked", where=where, found=str(error)[:300]) from None
        except exceptions.BadRequest as error:
            if "retention" in error.message:
                raise NotSupported("the bucket has no object retention", where=where, found=error.message) from None
            raise ObjectStoreError("the request was refused", where=where, found=error.message) from None
        except (exceptions.GoogleAPICallError, exceptions.RetryError, RequestException) as error:
            raise StoreUnavailable(
                "Cloud Storage does not answer", where=where, found=str(error)[:300], outcome_unknown=True
            ) from None

    def _client(self) -> Any:
        if self._given is None:
            try:
                from google.cloud import storage  # type: ignore[attr-defined, unused-ignore]
            except ImportError as error:
                raise ConfigError(
                    "google-cloud-storage is not installed here", where=self.name, found=str(error)
                ) from None
            fields = gcp_fields(self._connection)
            options = {"api_endpoint": fields["endpoint_url"]} if fields.get("endpoint_url") else None
            self._given = storage.Client(
                project=str(fields.get("project") or fields.get("project_id") or "none"),
                credentials=self._credentials(fields),
                client_options=options,
            )
        return self._given

    def _credentials(self, fields: dict[str, Any]) -> Any:
        from google.auth.credentials import AnonymousCredentials

        if str(fields.get("is_anonymous")).lower() == "true":
            return AnonymousCredentials()  # type: ignore[no-untyped-call, unused-ignore]
        return gcp_credentials(self._connection, _SCOPES)
