"""The posture of Google Cloud: a site's bucket, the project behind it, the identity that looks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

import httpx

from holdfast.clock import Clock
from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.gcp_api import GcpApi
from holdfast.engine.audit.posture.gcp_bucket import GcpBucket
from holdfast.engine.audit.posture.interface import (
    Ask,
    CannotTell,
    Judgement,
    Place,
    Resource,
    Subject,
    Thresholds,
    failed,
    passed,
)
from holdfast.engine.audit.posture.privileges import Grant, gcp_permissions, judged
from holdfast.engine.config import Connection

_TERM = r"""(?:logName\s*[:=]\s*"?[^\s"()]*|log_id\(\s*")cloudaudit\.googleapis\.com[^\s"()]*"?\)?"""
#: No filter, or one that names audit logs and nothing else.
_WHOLE = re.compile(rf"\(?\s*{_TERM}(?:\s+OR\s+{_TERM})*\s*\)?")
_TO_STORAGE = "storage.googleapis.com/"


class GcpPosture:
    """See `Leaf`.

    Args:
        connection, clock, transport: as in `GcpApi`.
        thresholds: what counts as stale.
        role: the published role that the identity is meant to have.
    """

    def __init__(
        self,
        connection: Connection,
        thresholds: Thresholds,
        clock: Clock,
        *,
        role: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection, self._thresholds, self._clock, self._role = connection, thresholds, clock, role
        self._api = GcpApi(connection, clock, transport=transport)
        self._buckets: set[str] = set()

    @property
    def asked_at(self) -> str | None:
        return self._api.asked_at

    def bucket(self, place: Place) -> Subject:
        self._buckets.add(place.site.bucket)
        uid = f"//storage.googleapis.com/{place.site.bucket}"
        bare = Resource("gcp", "bucket", uid, place.site.region)

        def resource() -> Resource:
            return Resource("gcp", "bucket", uid, place.site.region, self._api.project)

        return Subject(resource, GcpBucket(self._api, place, self._thresholds).asks(), bare)

    def accounts(self) -> list[Subject]:
        name = f"connection {self._connection.conn_id}"

        def project() -> Resource:
            found = self._api.project
            return Resource("gcp", "project", f"projects/{found}", account=found)

        def identity() -> Resource:
            return Resource("gcp", "identity", self._api.identity, account=self._api.project)

        of_project: Mapping[str, Ask] = {
            checks.MFA.check_id: self._mfa,
            checks.STALE_CREDENTIALS.check_id: self._stale_credentials,
            checks.AUDIT_TRAIL.check_id: self._trail,
            checks.AUDIT_TRAIL_PROTECTED.check_id: self._trail_protected,
        }
        of_identity: Mapping[str, Ask] = {checks.LEAST_PRIVILEGE.check_id: self._least_privilege}
        return [
            Subject(project, of_project, Resource("gcp", "project", name)),
            Subject(identity, of_identity, Resource("gcp", "identity", name)),
        ]

    def _mfa(self) -> Judgement:
        """Google's second factor is a matter of the organisation's directory (Workspace or Cloud Identity)."""
        expected = "every user of the directory is enrolled in 2-step verification"
        users = self._api.pages("admin", "/admin/directory/v1/users", "users", customer="my_customer", maxResults="500")
        active = [user for user in users if not user.get("suspended")]
        if not active:
            raise CannotTell("the directory lists no user", where="admin.directory.users.list")
        without = [str(user.get("primaryEmail")) for user in active if user.get("isEnrolledIn2Sv") is not True]
        if without:
            shown = f"{len(without)} of {len(active)} are not, the first: {', '.join(without[:3])}"
            return failed(expected, shown, "Enforce 2-step verification in the directory", without=without)
        return passed(expected, f"all of {len(active)}", users=len(active))

    def _stale_credentials(self) -> Judgement:
        age = self._thresholds.age
        expected = (
            f"no service account's own key unused for {self._thresholds.unused.days} days or older than {age.days}"
        )
        accounts = self._api.pages("iam", f"/v1/projects/{self._api.project}/serviceAccounts", "accounts")
        keys = [
            key
            for account in accounts
            if not account.get("disabled")
            for key in self._api.get("iam", f"/v1/{account['name']}/keys", keyTypes="USER_MANAGED").get("keys") or ()
            if not key.get("disabled")
        ]
        used = self._last_used() if keys else {}
        stale = [said for key in keys if (said := self._stale(key, used))]
        facts = {"accounts": len(accounts), "keys": len(keys), "stale": stale}
        if stale:
            shown = f"{len(stale)}, the first: {'; '.join(stale[:3])}"
            return failed(expected, shown, "Delete them; log in by workload identity", **facts)
        return passed(expected, f"{len(keys)} keys of {len(accounts)} accounts", **facts)

    def _last_used(self) -> dict[str, datetime]:
        """Key id → when it last logged in. Raises CannotTell."""
        activity = "serviceAccountKeyLastAuthentication"
        path = f"/v1/projects/{self._api.project}/locations/global/activityTypes/{activity}/activities:query"
        found = {}
        for one in self._api.pages("policyanalyzer", path, "activities"):
            moment = (one.get("activity") or {}).get("lastAuthenticatedTime")
            if moment:
                found[str(one["fullResourceName"]).rpartition("/")[2]] = datetime.fromisoformat(moment)
        return found

    def _stale(self, key: dict[str, Any], used: dict[str, datetime]) -> str | None:
        name, now = str(key["name"]), self._clock.now()
        made = datetime.fromisoformat(key["validAfterTime"])
        last = used.get(name.rpartition("/")[2], made)
        if now - last > self._thresholds.unused:
            return f"{name}: last used {last:%Y-%m-%d}"
        return f"{name}: made {made:%Y-%m-%d}" if now - made > self._thresholds.age else None

    def _least_privilege(self) -> Judgement:
        member = f"serviceAccount:{self._api.identity}"
        policies = {
            f"projects/{self._api.project}": self._api.project_policy,
            **{name: self._api.bucket_policy(name) for name in sorted(self._buckets)},
        }
        grants = []
        for where, policy in policies.items():
            for binding in policy.get("bindings") or ():
                if member in binding.get("members", ()):
                    role = binding["role"]
                    found = self._api.get("iam", f"/v1/{role}")
                    grants.append(Grant(f"{role} on {where}", tuple(gcp_permissions(found))))
        return judged("gcp", self._api.identity, grants, self._role)

    @cached_property
    def _sinks(self) -> list[dict[str, Any]]:
        return self._api.pages("logging", f"/v2/projects/{self._api.project}/sinks", "sinks")

    def _exports(self) -> list[dict[str, Any]]:
        """Sinks that take the audit log out of the project's own log buckets.

        Raises:
            CannotTell: only by knowing Logging's query language could it be told whether one does.
        """
        out = [
            sink
            for sink in self._sinks
            if not sink.get("disabled")
            and not str(sink.get("destination", "")).startswith("logging.googleapis.com/")
            and (not sink.get("filter") or "cloudaudit.googleapis.com" in sink["filter"])
        ]
        plain = [
            sink
            for sink in out
            if not sink.get("exclusions") and (not sink.get("filter") or _WHOLE.fullmatch(sink["filter"].strip()))
        ]
        if out and not plain:
            raise CannotTell(
                "sinks name the audit logs among other conditions or with exclusions",
                where=f"projects/{self._api.project}/sinks",
                found=", ".join(str(sink.get("name")) for sink in out),
                fix="Make a sink for the audit logs alone",
            )
        return plain

    def _trail(self) -> Judgement:
        expected = "a sink that exports the audit logs (that of admin activity is always on)"
        found = [{name: sink.get(name) for name in ("name", "destination", "filter")} for sink in self._exports()]
        if not found:
            fix = "gcloud logging sinks create … --log-filter 'logName:cloudaudit.googleapis.com'"
            return failed(expected, f"none of {len(self._sinks)} sinks", fix, sinks=len(self._sinks))
        return passed(expected, f"{found[0]['name']} to {found[0]['destination']}", sinks=found)

    def _trail_protected(self) -> Judgement:
        expected = "every bucket that audit logs go to has a locked retention policy and prevents public access"
        buckets = [
            str(sink["destination"]).removeprefix(_TO_STORAGE)
            for sink in self._exports()
            if str(sink["destination"]).startswith(_TO_STORAGE)
        ]
        if not buckets:
            return failed(expected, "no sink to a bucket", "Make one: see audit-trail")
        poor = {bucket: lacks for bucket in sorted(set(buckets)) if (lacks := self._lacks(bucket))}
        if poor:
            said = "; ".join(f"{bucket}: {', '.join(lacks)}" for bucket, lacks in poor.items())
            return failed(
                expected,
                said,
                "gcloud storage buckets update --retention-period … --lock-retention-period",
                buckets=poor,
            )
        return passed(expected, ", ".join(buckets), buckets=buckets)

    def _lacks(self, bucket: str) -> list[str]:
        found = self._api.bucket(bucket)
        lacks = []
        if (found.get("retentionPolicy") or {}).get("isLocked") is not True:
            lacks.append("no locked retention policy")
        if (found.get("iamConfiguration") or {}).get("publicAccessPrevention") != "enforced":
            lacks.append("public access is not prevented")
        return lacks
