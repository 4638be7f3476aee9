"""What is asked of an AWS account, and of the identity the connection logs in as."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.aws_api import AwsApi
from holdfast.engine.audit.posture.interface import (
    Ask,
    CannotTell,
    Judgement,
    NotThere,
    Thresholds,
    failed,
    passed,
    unknown,
)
from holdfast.engine.audit.posture.privileges import Grant, aws_actions, judged

_ROOT = "<root_account>"
#: AWS makes a report within seconds; so many looks, so far apart.
_REPORT_LOOKS = 15
_REPORT_PAUSE_SECONDS = 2.0
_NEVER = ("N/A", "no_information", "not_supported", "")
_ARN = re.compile(r"arn:[a-z-]+:(?:iam|sts)::(?P<account>\d{12}):(?P<rest>.+)")


class AwsAccount:
    """The checks of the account, each fact asked for once."""

    def __init__(self, api: AwsApi, thresholds: Thresholds, clock: Clock, role: str | None) -> None:
        self._api, self._thresholds, self._clock, self._role = api, thresholds, clock, role

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """``Account`` and ``Arn``. Raises CannotTell."""
        return dict(self._api.call("sts", "get_caller_identity"))

    def asks(self) -> Mapping[str, Ask]:
        return {
            checks.MFA.check_id: self._mfa,
            checks.STALE_CREDENTIALS.check_id: self._stale_credentials,
            checks.AUDIT_TRAIL.check_id: self._trail,
            checks.AUDIT_TRAIL_PROTECTED.check_id: self._trail_protected,
        }

    def asks_of_identity(self) -> Mapping[str, Ask]:
        return {checks.LEAST_PRIVILEGE.check_id: self._least_privilege}

    @cached_property
    def _report(self) -> list[dict[str, str]]:
        """The credential report's rows. Raises CannotTell."""
        for _ in range(_REPORT_LOOKS):
            if self._api.call("iam", "generate_credential_report").get("State") == "COMPLETE":
                break
            self._clock.sleep(_REPORT_PAUSE_SECONDS)
        content = self._api.call("iam", "get_credential_report")["Content"]
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        needed = {"user", "password_enabled", "mfa_active", "access_key_1_active", "access_key_2_active"}
        if not rows or not needed <= set(rows[0]):
            raise CannotTell("the credential report is empty or of another form", where="iam:get_credential_report")
        return rows

    def _mfa(self) -> Judgement:
        expected = "a second factor for the root user and for everybody with a password"
        rows = self._report
        without = [row["user"] for row in rows if self._needs_factor(row) and row["mfa_active"] != "true"]
        facts: dict[str, Any] = {"users": len(rows), "without": without, "generated_from": "credential report"}
        if without:
            return failed(expected, f"none for {', '.join(without)}", "Register a device for each of them", **facts)
        if all(row["user"] != _ROOT for row in rows):
            return unknown(expected, f"the report names no {_ROOT}, which that of AWS does", **facts)
        return passed(expected, f"all of {len(rows)} users", **facts)

    def _needs_factor(self, row: Mapping[str, str]) -> bool:
        return row["user"] == _ROOT or _has(row, "password_enabled")

    def _stale_credentials(self) -> Judgement:
        unused, age = self._thresholds.unused, self._thresholds.age
        expected = (
            f"no active key or password unused for {unused.days} days, no key older than {age.days} days, none of root"
        )
        rows = self._report
        stale = [said for row in rows for said in self._stale_of(row)]
        if stale:
            shown = f"{len(stale)}, the first: {'; '.join(stale[:3])}"
            return failed(expected, shown, "Deactivate them, then delete them", stale=stale)
        if all(row["user"] != _ROOT for row in rows):
            return unknown(expected, f"the report names no {_ROOT}, which that of AWS does")
        return passed(expected, f"none among {len(rows)} users", users=len(rows))

    def _stale_of(self, row: Mapping[str, str]) -> Iterator[str]:
        now, user = self._clock.now(), row["user"]
        for number in (1, 2):
            if row[f"access_key_{number}_active"] != "true":
                continue
            rotated = _moment(row.get(f"access_key_{number}_last_rotated"))
            used = _moment(row.get(f"access_key_{number}_last_used_date")) or rotated
            if user == _ROOT:
                yield f"key {number} of the root user"
            elif used is not None and now - used > self._thresholds.unused:
                yield f"key {number} of {user}: last used {used:%Y-%m-%d}"
            elif rotated is not None and now - rotated > self._thresholds.age:
                yield f"key {number} of {user}: made {rotated:%Y-%m-%d}"
            elif rotated is None:
                yield f"key {number} of {user}: of an unknown age"
        if user != _ROOT and _has(row, "password_enabled"):
            seen = _moment(row.get("password_last_used")) or _moment(row.get("password_last_changed"))
            if seen is not None and now - seen > self._thresholds.unused:
                yield f"the password of {user}: last used {seen:%Y-%m-%d}"

    @cached_property
    def _trails(self) -> list[dict[str, Any]]:
        return list(self._api.call("cloudtrail", "describe_trails").get("trailList", []))

    def _trail(self) -> Judgement:
        expected = "a trail that logs, in all regions, with validation of its files"
        fix = "aws cloudtrail create-trail --is-multi-region-trail --enable-log-file-validation, then start-logging"
        looked, refused = [], []
        for trail in self._trails:
            try:
                status = self._api.call("cloudtrail", "get_trail_status", Name=trail["TrailARN"])
            except CannotTell as error:
                refused.append(str(error))
                continue
            facts = {
                "trail": trail["TrailARN"],
                "logs": bool(status.get("IsLogging")),
                "all_regions": bool(trail.get("IsMultiRegionTrail")),
                "validation": bool(trail.get("LogFileValidationEnabled")),
                "delivery_error": status.get("LatestDeliveryError"),
            }
            looked.append(facts)
            if facts["logs"] and facts["all_regions"] and facts["validation"] and not facts["delivery_error"]:
                return passed(expected, f"{trail['TrailARN']}", trails=looked)
        if refused:
            return unknown(expected, f"trails that cannot be looked at: {'; '.join(refused)}", trails=looked)
        said = "; ".join(f"{one['trail']}: {_lacks(one)}" for one in looked) or "no trail"
        return failed(expected, said, fix, trails=looked)

    def _trail_protected(self) -> Judgement:
        expected = "every trail's bucket blocks public access and keeps versions"
        if not self._trails:
            return failed(expected, "no trail", "Make one: see audit-trail")
        poor: dict[str, list[str]] = {}
        for bucket in sorted({trail["S3BucketName"] for trail in self._trails if trail.get("S3BucketName")}):
            lacks = self._bucket_lacks(bucket)
            if lacks:
                poor[bucket] = lacks
        if poor:
            said = "; ".join(f"{bucket}: {', '.join(lacks)}" for bucket, lacks in poor.items())
            return failed(expected, said, "Set these, and Object Lock where the trail is new", buckets=poor)
        return passed(expected, f"{len(self._trails)} trails")

    def _bucket_lacks(self, bucket: str) -> list[str]:
        lacks = []
        try:
            block = self._api.call("s3", "get_public_access_block", Bucket=bucket)["PublicAccessBlockConfiguration"]
            if not all(block.values()):
                lacks.append("public access is not blocked whole")
        except NotThere:
            lacks.append("public access is not blocked")
        if self._api.call("s3", "get_bucket_versioning", Bucket=bucket).get("Status") != "Enabled":
            lacks.append("no versions are kept")
        return lacks

    def _least_privilege(self) -> Judgement:
        arn = self.identity["Arn"]
        found = _ARN.fullmatch(arn)
        kind, _, name = (found["rest"] if found else "").partition("/")
        if kind == "root" or (found and found["rest"] == "root"):
            return failed(
                "an identity of Holdfast's own", f"{arn}: the root user, who may do everything", "Make a role"
            )
        if kind == "assumed-role":
            return judged("aws", arn, self._of("role", name.split("/")[0]), self._role)
        if kind == "user":
            user = name.rsplit("/", 1)[-1]
            groups = self._api.pages("iam", "list_groups_for_user", "Groups", UserName=user)
            grants = [
                *self._of("user", user),
                *(one for group in groups for one in self._of("group", group["GroupName"])),
            ]
            return judged("aws", arn, grants, self._role)
        return unknown("a user or a role", f"{arn}, whose policies cannot be looked at")

    def _of(self, kind: str, name: str) -> list[Grant]:
        """Attached and inline policies. What bounds them (boundaries, SCPs) is not subtracted."""
        named = {f"{kind.capitalize()}Name": name}
        grants = []
        for one in self._api.pages("iam", f"list_attached_{kind}_policies", "AttachedPolicies", **named):
            version = self._api.call("iam", "get_policy", PolicyArn=one["PolicyArn"])["Policy"]["DefaultVersionId"]
            found = self._api.call("iam", "get_policy_version", PolicyArn=one["PolicyArn"], VersionId=version)
            grants.append(Grant(one["PolicyArn"], tuple(aws_actions(found["PolicyVersion"]["Document"]))))
        for inline in self._api.pages("iam", f"list_{kind}_policies", "PolicyNames", **named):
            found = self._api.call("iam", f"get_{kind}_policy", PolicyName=inline, **named)
            grants.append(Grant(f"{kind} {name}: {inline}", tuple(aws_actions(found["PolicyDocument"]))))
        return grants


def _lacks(facts: Mapping[str, Any]) -> str:
    said = [name for name in ("logs", "all_regions", "validation") if not facts[name]]
    return "lacks " + ", ".join(said) if said else f"delivery fails: {facts['delivery_error']}"


def _has(row: Mapping[str, str], field: str) -> bool:
    return row[field] == "true"


def _moment(text: str | None) -> datetime | None:
    return None if text is None or text in _NEVER else datetime.fromisoformat(text)
