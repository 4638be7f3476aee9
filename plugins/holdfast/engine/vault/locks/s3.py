"""S3 Object Lock: a retention per object version, in a bucket with versions.

A DELETE without a version, or a PUT over a locked object, *succeeds*: it hides the locked version behind a newer one
or a delete marker. So what is removed is removed version by version, and a report says what is hidden.
(`Object Lock <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>`_)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    StoreUnavailable,
    denied_permission,
)
from holdfast.engine.vault.locks._common import at_once, is_firmer
from holdfast.engine.vault.locks.interface import LockCapability, LockedObject, LockMode
from holdfast.errors import ConfigError

_CONNECT_SECONDS = 3
_READ_SECONDS = 10
_TRIES = 3
_MISSING = ("404", "NoSuchKey", "NoSuchVersion", "NotFound")
_NO_LOCKS = ("ObjectLockConfigurationNotFoundError", "InvalidRequest", "NotImplemented")


class S3Locks:
    """The locks of one bucket and prefix.

    Args:
        site_name, site: where it is.
        connection: Airflow's AWS connection: login and password (or the environment's credentials), and for an
            emulator ``extra.endpoint_url`` or ``extra.service_config.s3.endpoint_url``.
        client: boto3's ``s3`` client to use instead of one made from the connection.
    """

    def __init__(self, site_name: str, site: Site, connection: Connection, *, client: Any = None) -> None:
        self._site, self._connection, self._given = site, connection, client
        self._prefix = f"{site.prefix}/" if site.prefix else ""
        self._name = f"{site_name} (s3://{'/'.join(filter(None, (site.bucket, site.prefix)))})"

    @property
    def name(self) -> str:
        return self._name

    def capability(self) -> LockCapability:
        try:
            found = self._call("get_object_lock_configuration", None)
        except NotSupported as error:
            return LockCapability("s3", enforces=False, why=error.found or error.what)
        enabled = found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
        return LockCapability("s3", enforces=enabled, why="the bucket's Object Lock configuration")

    def state(self, key: str) -> LockedObject:
        found = self._call("head_object", key)
        return _locked(key, found, found.get("VersionId"), hidden=False)

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:
        now = self.state(key)
        if is_firmer(now, until, mode):
            return
        retention = {"Mode": _mode_of(now, mode).upper(), "RetainUntilDate": max(until, now.until or until)}
        self._call("put_object_retention", key, Retention=retention, **_version(now.version))

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        listed = [
            (one["Key"].removeprefix(self._prefix), one["VersionId"], not one["IsLatest"])
            for page in self._pages(prefix)
            for one in page.get("Versions", [])
        ]
        listed.reverse()  # S3 tells the newest first
        listed.sort(key=lambda place: place[0])

        def look(place: tuple[str, str, bool]) -> LockedObject | None:
            key, version, hidden = place
            try:
                return self._look(key, version, hidden=hidden)
            except ObjectNotFound:
                return None  # removed since it was listed

        yield from (found for found in at_once(look, listed) if found is not None)

    def _look(self, key: str, version: str, *, hidden: bool) -> LockedObject:
        # Of a bucket that never had versions the newest is asked for without one: moto refuses "null".
        asked = {} if version == "null" and not hidden else _version(version)
        return _locked(key, self._call("head_object", key, **asked), version, hidden=hidden)

    def remove(self, key: str) -> None:
        versions, markers = {}, []
        for page in self._pages(key):
            for one in page.get("Versions", []):
                if one["Key"] == self._prefix + key:
                    versions[one["VersionId"]] = not one["IsLatest"]
            markers += [one["VersionId"] for one in page.get("DeleteMarkers", []) if one["Key"] == self._prefix + key]
        for version, hidden in versions.items():
            until = self._look(key, version, hidden=hidden).until
            if until is not None and until > datetime.now(UTC):
                raise PermissionRefused(
                    "the object is locked", where=f"{self.name}: {key}", found=f"until {until.isoformat()}"
                )
        # Versions first: a marker alone hides nothing that is there.
        for version in (*versions, *markers):
            self._call("delete_object", key, **_version(version))

    def reveal(self, found: LockedObject) -> None:
        source = {"Bucket": self._site.bucket, "Key": self._prefix + found.key, **_version(found.version)}
        self._call("copy_object", found.key, CopySource=source)

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        marker: dict[str, str] = {}
        while True:
            page = self._call("list_object_versions", None, Prefix=self._prefix + prefix, **marker)
            yield page
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _call(self, method: str, key: str | None, **arguments: Any) -> Any:
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.name}: {method}" + (f" {key}" if key is not None else "")
        if key is not None:
            arguments["Key"] = self._prefix + key
        try:
            return getattr(client, method)(Bucket=self._site.bucket, **arguments)
        except ClientError as error:
            raise _translated(error, where) from None
        except BotoCoreError as error:
            raise StoreUnavailable("S3 does not answer", where=where, found=str(error)) from None

    def _client(self) -> Any:
        if self._given is None:
            try:
                import boto3
                from botocore.config import Config
            except ImportError as error:
                raise ConfigError("boto3 is not installed here", where=self.name, found=str(error)) from None
            extra = self._connection.extra
            service = extra.get("service_config", {}).get("s3", {})
            self._given = boto3.client(
                "s3",
                aws_access_key_id=self._connection.login or None,
                aws_secret_access_key=self._connection.password or None,
                aws_session_token=extra.get("aws_session_token"),
                region_name=extra.get("region_name") or self._site.region,
                endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": _TRIES},
                    max_pool_connections=16,
                ),
            )
        return self._given


def _locked(key: str, found: Any, version: str | None, *, hidden: bool) -> LockedObject:
    mode, until = found.get("ObjectLockMode"), found.get("ObjectLockRetainUntilDate")
    if mode is None or until is None:
        return LockedObject(key, found["LastModified"], hidden=hidden, version=version)
    return LockedObject(key, found["LastModified"], until, LockMode(mode.lower()), hidden, version)


def _mode_of(now: LockedObject, wanted: LockMode) -> LockMode:
    """A compliance lock cannot become a governance one."""
    return LockMode.COMPLIANCE if now.mode is LockMode.COMPLIANCE else wanted


def _version(version: str | None) -> dict[str, str]:
    return {"VersionId": version} if version is not None else {}


def _translated(error: Any, where: str) -> ObjectStoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = f"HTTP {status} {code}"
    if code in _NO_LOCKS:
        return NotSupported("the bucket has no Object Lock", where=where, found=code)
    if code in _MISSING or status == 404:
        return ObjectNotFound("no object has this key", where=where, found=found)
    if status in (401, 403):
        denied = denied_permission(str(error.response.get("Error", {}).get("Message", "")))
        found = f"{found}: no right {denied}" if denied else found
        return PermissionRefused("the credentials are wrong or not allowed to do this", where=where, found=found)
    if status >= 500 or status == 429:
        return StoreUnavailable("S3 is failing or throttling", where=where, found=found, outcome_unknown=True)
    return ObjectStoreError("S3 refused the request", where=where, found=found)
