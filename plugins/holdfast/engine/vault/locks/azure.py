"""Azure Blob's immutability policies per blob version, in a container with version-level immutability.

As with S3, deleting or overwriting a locked blob hides its version and does not remove it.
(`Version-level WORM <https://learn.microsoft.com/azure/storage/blobs/immutable-version-level-worm-policies>`_)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    StoreUnavailable,
)
from holdfast.engine.vault.locks._common import is_firmer
from holdfast.engine.vault.locks.interface import LockCapability, LockedObject, LockMode
from holdfast.errors import ConfigError

_T = TypeVar("_T")
_LIMITS: dict[str, Any] = {
    "connection_timeout": 3,
    "read_timeout": 10,
    "retry_total": 2,
    "retry_connect": 2,
    "retry_read": 2,
    "retry_status": 2,
}
_MODES = {"locked": LockMode.COMPLIANCE, "unlocked": LockMode.GOVERNANCE}
_NAMES = {LockMode.COMPLIANCE: "Locked", LockMode.GOVERNANCE: "Unlocked"}


class AzureLocks:
    """The locks of one container and prefix.

    Args:
        site_name, site: where it is.
        connection: Airflow's ``wasb`` connection, as for the site's store.
        client: an ``azure.storage.blob.ContainerClient`` to use instead of one made from the connection.
    """

    def __init__(self, site_name: str, site: Site, connection: Connection, *, client: Any = None) -> None:
        self._site, self._connection, self._given = site, connection, client
        self._prefix = f"{site.prefix}/" if site.prefix else ""
        self._name = f"{site_name} (az://{'/'.join(filter(None, (site.bucket, site.prefix)))})"

    @property
    def name(self) -> str:
        return self._name

    def capability(self) -> LockCapability:
        found = self._call("container", lambda client: client.get_container_properties())
        enabled = bool(found.immutable_storage_with_versioning_enabled)
        said = "on" if enabled else "off, or unknown to this server"
        return LockCapability("azure", enforces=enabled, why=f"the container's version-level immutability is {said}")

    def state(self, key: str) -> LockedObject:
        return self._locked(key, self._call(f"get {key}", lambda client: self._blob(client, key).get_blob_properties()))

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:
        now = self.state(key)
        if is_firmer(now, until, mode):
            return
        from azure.storage.blob import ImmutabilityPolicy

        firmest = LockMode.COMPLIANCE if now.mode is LockMode.COMPLIANCE else mode
        policy = ImmutabilityPolicy(expiry_time=max(until, now.until or until), policy_mode=_NAMES[firmest])
        self._call(
            f"lock {key}",
            lambda client: self._blob(client, key).set_immutability_policy(policy, version_id=now.version),
        )

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        listed = self._call(
            f"list {prefix}",
            lambda client: iter(
                client.list_blobs(
                    name_starts_with=self._prefix + prefix, include=["immutabilitypolicy", "legalhold", "versions"]
                )
            ),
        )
        while True:
            found = self._call(f"list {prefix}", lambda _: next(listed, None))
            if found is None:
                return
            yield self._locked(found.name.removeprefix(self._prefix), found)

    def remove(self, key: str) -> None:
        versions = [found for found in self.objects(key) if found.key == key]
        for found in versions:
            if found.until is not None and found.until > datetime.now(UTC):
                raise PermissionRefused(
                    "the blob is locked", where=f"{self.name}: {key}", found=f"until {found.until.isoformat()}"
                )
        if any(not found.hidden for found in versions):
            # The current version is removed as a version only once it is not the current one.
            self._call(f"delete {key}", lambda client: self._blob(client, key).delete_blob())
        for found in versions:
            if found.version is not None:
                self._delete(key, found.version)

    def _delete(self, key: str, version: str) -> None:
        self._call(f"delete {key}", lambda client: self._blob(client, key).delete_blob(version_id=version))

    def reveal(self, found: LockedObject) -> None:
        raise NotSupported(
            "an older version of a blob is not put back by Holdfast",
            where=f"{self.name}: {found.key}",
            fix=f"Copy version {found.version} over the blob, e.g. with `az storage blob copy start`",
        )

    def _blob(self, client: Any, key: str) -> Any:
        return client.get_blob_client(self._prefix + key)

    def _locked(self, key: str, found: Any) -> LockedObject:
        policy = found.immutability_policy
        mode = _MODES.get(str(policy.policy_mode or "").lower()) if policy is not None else None
        until = _moment(policy.expiry_time) if mode is not None else None
        hidden = found.version_id is not None and not found.is_current_version
        return LockedObject(key, found.last_modified, until, mode if until else None, hidden, found.version_id)

    def _call(self, what: str, ask: Callable[[Any], _T]) -> _T:
        client = self._client()
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ResourceNotFoundError,
        )

        where = f"{self.name}: {what}"
        try:
            return ask(client)
        except ResourceNotFoundError as error:
            raise ObjectNotFound("no blob has this name", where=where, found=_code(error)) from None
        except ClientAuthenticationError as error:
            raise PermissionRefused(
                "the credentials are wrong or not allowed", where=where, found=_code(error)
            ) from None
        except HttpResponseError as error:
            raise _translated(error, where) from None
        except AzureError as error:
            raise StoreUnavailable(
                "Blob Storage does not answer", where=where, found=str(error)[:300], outcome_unknown=True
            ) from None

    def _client(self) -> Any:
        if self._given is None:
            try:
                from azure.storage.blob import ContainerClient
            except ImportError as error:
                raise ConfigError(
                    "azure-storage-blob is not installed here", where=self.name, found=str(error)
                ) from None
            access = access_from_connection(self._site, self._connection)
            account = access.options["account_name"]
            self._given = ContainerClient(
                access.endpoint or f"https://{account}.blob.core.windows.net",
                self._site.bucket,
                credential=self._credential(account),
                **_LIMITS,
            )
        return self._given

    def _credential(self, account: str) -> Any:
        access = access_from_connection(self._site, self._connection)
        if access.credentials is None:
            from azure.identity import ClientSecretCredential, DefaultAzureCredential

            options = access.options
            if "client_secret" in options:
                return ClientSecretCredential(options["tenant_id"], options["client_id"], options["client_secret"])
            return DefaultAzureCredential()
        values = access.credentials().values
        if key := values.get("access_key"):
            return {"account_name": account, "account_key": key}
        return values.get("sas_token")


def _translated(error: Any, where: str) -> ObjectStoreError:
    code, status = _code(error), int(error.status_code or 0)
    if status in (409, 403):
        return PermissionRefused("refused: no right, or locked", where=where, found=f"HTTP {status} {code}")
    if status == 501:
        return NotSupported("the server knows no immutability policies", where=where, found=f"HTTP {status} {code}")
    if status >= 500 or status == 429:
        return StoreUnavailable("Blob Storage is failing or throttling", where=where, found=code, outcome_unknown=True)
    if status == 400 and "mmutab" in f"{code}{error.message}":
        return NotSupported("the container has no version-level immutability", where=where, found=code)
    return ObjectStoreError("Blob Storage refused the request", where=where, found=f"HTTP {status} {code}")


def _code(error: Any) -> str:
    return str(getattr(error, "error_code", None) or getattr(error, "status_code", "") or "")


def _moment(found: Any) -> datetime | None:
    """A header says it as text, a listing as a moment."""
    if found is None or isinstance(found, datetime):
        return found
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(str(found))
