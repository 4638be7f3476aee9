"""What is asked of a Blob container and of its storage account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.azure_api import STORAGE, AzureApi
from holdfast.engine.audit.posture.interface import (
    Ask,
    Judgement,
    Place,
    Thresholds,
    failed,
    not_applicable,
    passed,
)

_LOGGED = ("StorageRead", "StorageWrite", "StorageDelete")
_GOOD_TLS = ("TLS1_2", "TLS1_3")


class AzureContainer:
    """The checks of one site's container."""

    def __init__(self, api: AzureApi, place: Place, thresholds: Thresholds) -> None:
        self._api, self._place, self._thresholds = api, place, thresholds

    def asks(self) -> Mapping[str, Ask]:
        return {
            checks.ENCRYPTION.check_id: self._encryption,
            checks.ROTATION.check_id: self._rotation,
            checks.VERSIONING.check_id: self._versioning,
            checks.OBJECT_LOCK.check_id: self._object_lock,
            checks.PUBLIC_ACCESS.check_id: self._public_access,
            checks.TLS_ONLY.check_id: self._tls_only,
            checks.DATA_ACCESS_LOGS.check_id: self._data_access_logs,
        }

    @cached_property
    def account(self) -> dict[str, Any]:
        """The storage account. Raises CannotTell."""
        return self._api.storage_account(self._api.account_name(self._place.site))

    @property
    def _properties(self) -> dict[str, Any]:
        return dict(self.account["properties"])

    @cached_property
    def _container(self) -> dict[str, Any]:
        path = f"{self.account['id']}/blobServices/default/containers/{self._place.site.bucket}"
        return dict(self._api.arm(path, STORAGE)["properties"])

    def _key(self) -> dict[str, Any] | None:
        """The key of a vault the account encrypts with, if it does."""
        found = self._properties.get("encryption") or {}
        if str(found.get("keySource", "")).lower() != "microsoft.keyvault":
            return None
        return dict(found.get("keyvaultproperties") or {})

    def _encryption(self) -> Judgement:
        expected = "encryption at rest"
        source = self._properties["encryption"]["keySource"]
        twice = self._properties["encryption"].get("requireInfrastructureEncryption")
        key = self._key()
        if key is None:
            found = "with Microsoft's own keys, as Blob Storage always does"
            return passed(expected, found, key_source=source, infrastructure_encryption=twice)
        name = f"{key.get('keyvaulturi', '').rstrip('/')}/keys/{key.get('keyname')}"
        return passed(expected, f"with {name}", key_source=source, key=name, infrastructure_encryption=twice)

    def _rotation(self) -> Judgement:
        expected = "the newest version of a key that its vault rotates"
        key = self._key()
        if key is None:
            return not_applicable(expected, "Microsoft's own keys, which nobody can look at")
        name = f"{key['keyvaulturi'].rstrip('/')}/keys/{key['keyname']}"
        fix = f"az keyvault key rotation-policy update --id {name}, and no fixed version in the account's encryption"
        if key.get("keyversion"):
            return failed(expected, f"the account stays at version {key['keyversion']}", fix, key=name)
        policy = self._api.key_vault(f"{name}/rotationpolicy")
        actions = [one for one in policy.get("lifetimeActions") or () if str(one["action"]["type"]).lower() == "rotate"]
        if not actions:
            return failed(expected, "its vault does not rotate it", fix, key=name)
        when = actions[0].get("trigger")
        return passed(expected, f"rotated: {when}", key=name, trigger=when)

    def _versioning(self) -> Judgement:
        found = self._api.arm(f"{self.account['id']}/blobServices/default", STORAGE)["properties"]
        soft = (found.get("deleteRetentionPolicy") or {}).get("enabled")
        if found.get("isVersioningEnabled") is True:
            return passed("versioning on", "versioning on", soft_delete=soft)
        fix = "az storage account blob-service-properties update --enable-versioning true …"
        return failed("versioning on", "versioning off", fix, soft_delete=soft)

    def _object_lock(self) -> Judgement:
        expected = "version-level immutability, or a locked policy on the container"
        by_version = (self._container.get("immutableStorageWithVersioning") or {}).get("enabled")
        policy = (self._container.get("immutabilityPolicy") or {}).get("properties") or {}
        facts = {"version_level": by_version, "policy_state": policy.get("state")}
        if by_version is True or policy.get("state") == "Locked":
            return passed(expected, "version-level" if by_version else "a locked policy", **facts)
        if not self._place.must_lock:
            return not_applicable(expected, "off, and the topology keeps nothing locked here", **facts)
        fix = "az storage container-rm migrate-vlw, or create the account with --enable-alw"
        return failed(expected, "off, though the topology locks what lies here", fix, **facts)

    def _public_access(self) -> Judgement:
        expected = "the account forbids public access, and the container has none"
        account = self._properties.get("allowBlobPublicAccess")
        container = self._container.get("publicAccess") or "None"
        network = (self._properties.get("networkAcls") or {}).get("defaultAction")
        facts = {"account_allows": account, "container": container, "network_default": network}
        fix = "az storage account update --allow-blob-public-access false"
        if container != "None":
            return failed(expected, f"the container is open: {container}", fix, **facts)
        if account is not False:
            return failed(expected, "not public now, but the account allows it", fix, **facts)
        return passed(expected, "forbidden by the account", **facts)

    def _tls_only(self) -> Judgement:
        https, least = self._properties.get("supportsHttpsTrafficOnly"), self._properties.get("minimumTlsVersion")
        expected = "HTTPS only, TLS 1.2 at least"
        if https is True and least in _GOOD_TLS:
            return passed(expected, f"HTTPS only, {least} at least")
        fix = "az storage account update --https-only true --min-tls-version TLS1_2"
        return failed(expected, f"HTTPS only: {https}; at least {least}", fix)

    def _data_access_logs(self) -> Judgement:
        expected = f"a diagnostic setting of the account's blobs with {', '.join(_LOGGED)}"
        settings = self._api.diagnostic_settings(f"{self.account['id']}/blobServices/default")
        for setting in settings:
            if not lacking(setting, _LOGGED):
                return passed(expected, f"{setting.get('name')}", settings=len(settings))
        fix = "az monitor diagnostic-settings create --resource …/blobServices/default --logs …"
        return failed(expected, f"none of {len(settings)} settings has all", fix, settings=len(settings))


def lacking(setting: Mapping[str, Any], categories: Iterable[str]) -> list[str]:
    """Which of the categories a diagnostic setting does not deliver."""
    logs = [log for log in (setting.get("properties") or {}).get("logs") or () if log.get("enabled") is True]
    if any(log.get("categoryGroup") == "allLogs" for log in logs):
        return []
    named = {log.get("category") for log in logs}
    return [category for category in categories if category not in named]
