"""A result as an OCSF 1.8.0 Compliance Finding (class 2003, https://schema.ocsf.io/1.8.0/classes/compliance_finding)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast import __version__
from holdfast.engine.audit.ocsf.schema import VERSION
from holdfast.engine.audit.posture.interface import Result, Severity, Status
from holdfast.strict_json import dumps

COMPLIANCE_FINDING = 2003
_CREATE = 1
_INFORMATIONAL = 1
_SEVERITIES = {Severity.LOW: 2, Severity.MEDIUM: 3, Severity.HIGH: 4, Severity.CRITICAL: 5}
#: OCSF: 1 Pass, 2 Warning, 3 Fail, 0 Unknown, 99 Other. What could not be told is 0, never 1.
_STATUSES = {Status.PASS: 1, Status.FAIL: 3, Status.UNKNOWN: 0, Status.NOT_APPLICABLE: 99}
_NAMES = {Status.PASS: "Pass", Status.FAIL: "Fail", Status.UNKNOWN: "Unknown", Status.NOT_APPLICABLE: "Not applicable"}
_PROVIDERS = {"aws": "AWS", "gcp": "GCP", "azure": "Azure"}


def as_ocsf(result: Result, when: datetime) -> dict[str, Any]:
    """The event.

    Args:
        result: of a check.
        when: when it was looked at, aware.
    """
    check, resource = result.check, result.resource
    moment = round(when.timestamp() * 1000)
    uid = f"{check.check_id}/{resource.uid}"
    is_bad = result.status in (Status.FAIL, Status.UNKNOWN)
    cloud: dict[str, Any] = {"provider": _PROVIDERS.get(resource.cloud, resource.cloud)}
    if resource.account:
        cloud["account"] = {"uid": resource.account}
    if resource.region:
        cloud["region"] = resource.region
    event: dict[str, Any] = {
        "class_uid": COMPLIANCE_FINDING,
        "category_uid": COMPLIANCE_FINDING // 1000,
        "activity_id": _CREATE,
        "type_uid": COMPLIANCE_FINDING * 100 + _CREATE,
        "severity_id": _SEVERITIES[check.severity] if is_bad else _INFORMATIONAL,
        "time": moment,
        "message": f"{check.title}: {result.status.value}. {result.found}",
        "metadata": {
            "version": VERSION,
            "profiles": ["cloud"],
            "product": {
                "name": "Holdfast",
                "vendor_name": "Holdfast",
                "version": __version__,
                "feature": {"name": "posture"},
            },
            "event_code": check.check_id,
        },
        "cloud": cloud,
        "finding_info": {"uid": uid, "title": check.title, "desc": check.means, "created_time": moment},
        "compliance": {
            "control": check.check_id,
            "desc": check.means,
            "standards": sorted(check.controls),
            "requirements": [f"{name} {one}" for name, ids in sorted(check.controls.items()) for one in ids],
            "status_id": _STATUSES[result.status],
            "status": _NAMES[result.status],
            "status_detail": f"expected {result.expected}; found {result.found}",
        },
        "resources": [
            {
                "uid": resource.uid,
                "name": result.site or resource.uid,
                "type": resource.kind,
                **({"region": resource.region} if resource.region else {}),
                "data": dumps({"evidence": dict(result.evidence), "asked_at": result.asked_at}),
            }
        ],
    }
    if result.remediation:
        event["remediation"] = {"desc": result.remediation}
    return event
