"""What is asked of a Cloud Storage bucket."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.gcp_api import GcpApi
from holdfast.engine.audit.posture.interface import (
    Ask,
    Judgement,
    Place,
    Thresholds,
    failed,
    not_applicable,
    passed,
    unknown,
)

_EVERYBODY = {"allUsers", "allAuthenticatedUsers"}
_DAY_SECONDS = 86_400


class GcpBucket:
    """The checks of one site's bucket."""

    def __init__(self, api: GcpApi, place: Place, thresholds: Thresholds) -> None:
        self._api, self._place, self._thresholds = api, place, thresholds
        self._bucket = place.site.bucket

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
    def _settings(self) -> dict[str, Any]:
        return self._api.bucket(self._bucket)

    @property
    def _key(self) -> str | None:
        found = (self._settings.get("encryption") or {}).get("defaultKmsKeyName")
        return str(found) if found else None

    def _encryption(self) -> Judgement:
        expected = "encryption at rest"
        if self._key:
            return passed(expected, f"with {self._key}", key=self._key)
        if self._api.asked_at:
            return unknown(expected, "no key of its own, and this is not Google's Cloud Storage, which always encrypts")
        return passed(expected, "with Google's own keys, as Cloud Storage always does", key=None)

    def _rotation(self) -> Judgement:
        longest = self._thresholds.rotation
        expected = f"an enabled key that is rotated at least every {longest.days} days"
        if not self._key:
            return not_applicable(expected, "Google's own keys, which nobody can look at")
        key = self._api.get("cloudkms", f"/v1/{self._key}")
        state, period = (key.get("primary") or {}).get("state"), key.get("rotationPeriod")
        facts = {"key": self._key, "state": state, "rotation_period": period, "next": key.get("nextRotationTime")}
        if state != "ENABLED":
            return failed(expected, f"its primary version is {state}", "Enable it, or name another key", **facts)
        fix = f"gcloud kms keys update {self._key} --rotation-period 90d --next-rotation-time …"
        if not period:
            return failed(expected, "rotation is off", fix, **facts)
        days = float(str(period).removesuffix("s")) / _DAY_SECONDS
        if days > longest.days:
            return failed(expected, f"rotated every {days:.0f} days", fix, **facts)
        return passed(expected, f"rotated every {days:.0f} days", **facts)

    def _versioning(self) -> Judgement:
        if (self._settings.get("versioning") or {}).get("enabled") is True:
            return passed("versioning on", "versioning on")
        fix = f"gcloud storage buckets update gs://{self._bucket} --versioning"
        return failed("versioning on", "versioning off", fix)

    def _object_lock(self) -> Judgement:
        expected = "object retention enabled, or a locked retention policy"
        mode = (self._settings.get("objectRetention") or {}).get("mode")
        policy = self._settings.get("retentionPolicy") or {}
        facts = {"object_retention": mode, "retention_policy": policy or None}
        if mode == "Enabled" or policy.get("isLocked") is True:
            return passed(expected, "object retention" if mode == "Enabled" else "a locked retention policy", **facts)
        if not self._place.must_lock:
            return not_applicable(expected, "off, and the topology keeps nothing locked here", **facts)
        fix = "Object retention is set when a bucket is made: --enable-per-object-retention"
        return failed(expected, "off, though the topology locks what lies here", fix, **facts)

    def _public_access(self) -> Judgement:
        expected = "public access prevention enforced, nobody named allUsers or allAuthenticatedUsers"
        fix = f"gcloud storage buckets update gs://{self._bucket} --public-access-prevention"
        access = self._settings.get("iamConfiguration") or {}
        prevention = access.get("publicAccessPrevention")
        uniform = (access.get("uniformBucketLevelAccess") or {}).get("enabled")
        facts: dict[str, Any] = {"public_access_prevention": prevention, "uniform_access": uniform}
        if prevention == "enforced":
            return passed(expected, "public access prevention enforced on the bucket", **facts)
        opened = self._opened()
        if opened:
            return failed(expected, f"granted to everybody: {', '.join(opened)}", fix, **facts, granted=opened)
        if self._api.is_enforced("storage.publicAccessPrevention"):
            return passed(expected, "public access prevention enforced by the organisation", **facts)
        return failed(expected, "not public now, but nothing forbids it", fix, **facts)

    def _opened(self) -> list[str]:
        grants = [
            *(self._settings.get("acl") or ()),
            *(self._settings.get("defaultObjectAcl") or ()),
        ]
        by_acl = [f"{one.get('role')} by access list" for one in grants if one.get("entity") in _EVERYBODY]
        policy = self._api.bucket_policy(self._bucket)
        by_role = [
            str(binding.get("role")) for binding in policy.get("bindings") or () if _EVERYBODY & set(binding["members"])
        ]
        return by_role + by_acl

    def _tls_only(self) -> Judgement:
        expected = "the constraint storage.secureHttpTransport: the XML API answers plain HTTP without it"
        if self._api.is_enforced("storage.secureHttpTransport"):
            return passed(expected, "enforced")
        fix = "gcloud org-policies set-policy … constraints/storage.secureHttpTransport"
        return failed(expected, "not enforced; Holdfast itself uses TLS", fix)

    def _data_access_logs(self) -> Judgement:
        expected = "DATA_READ and DATA_WRITE of storage.googleapis.com logged, with nobody exempted"
        kinds: set[str] = set()
        exempted: set[str] = set()
        for config in self._api.project_policy.get("auditConfigs") or ():
            if config.get("service") in ("allServices", "storage.googleapis.com"):
                for one in config.get("auditLogConfigs") or ():
                    kinds.add(one.get("logType"))
                    exempted |= set(one.get("exemptedMembers") or ())
        facts = {"log_types": sorted(kinds), "exempted": sorted(exempted)}
        missing = {"DATA_READ", "DATA_WRITE"} - kinds
        fix = "Add auditConfigs to the project's IAM policy; an organisation's or folder's are not seen here"
        if missing:
            return failed(expected, f"the project's policy does not log {', '.join(sorted(missing))}", fix, **facts)
        if exempted:
            return failed(expected, f"exempted: {', '.join(sorted(exempted))}", fix, **facts)
        return passed(expected, "both logged", **facts)
