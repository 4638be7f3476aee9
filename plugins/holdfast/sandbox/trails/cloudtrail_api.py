"""As much of CloudTrail's own API as an auditor asks: the public keys of the digests, and how the trail is doing.

moto has neither. JSON 1.1, as the SDKs and `aws cloudtrail validate-logs` speak it; what is not here is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.sandbox.files import read_json
from holdfast.sandbox.layout import SandboxSite
from holdfast.sandbox.trails.names import AWS_ACCOUNT, AWS_TRAIL, public_keys_file, trail_buckets, trails_folder


class Refused(Exception):
    """An error of the API: its code and what it says."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CloudTrailApi:
    """Answers from what the deliverer left on disk.

    Args:
        sites: those of AWS have a trail each, at home in their region.
    """

    def __init__(self, state: Path, sites: Sequence[SandboxSite]) -> None:
        self._state = state
        self._sites = [site for site in sites if site.cloud == "aws"]

    def answer(self, target: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON.

        Args:
            target: the header ``X-Amz-Target``.
        """
        operation = target.rpartition(".")[2]
        try:
            asked = json.loads(body or b"{}")
            if operation == "ListPublicKeys":
                return 200, self._public_keys(asked)
            if operation == "GetTrailStatus":
                return 200, self._status(self._named(str(asked.get("Name", ""))))
            if operation == "DescribeTrails":
                names = asked.get("trailNameList") or [_arn(site) for site in self._sites]
                return 200, {"trailList": [_described(self._named(str(name))) for name in names]}
        except Refused as error:
            return 400, {"__type": error.code, "message": str(error)}
        except (ValueError, AttributeError, TypeError) as error:
            return 400, {"__type": "SerializationException", "message": str(error)}
        return 400, {"__type": "UnsupportedOperationException", "message": f"the sandbox has no {operation}"}

    def _public_keys(self, asked: dict[str, Any]) -> dict[str, Any]:
        start, end = asked.get("StartTime"), asked.get("EndTime")
        found = []
        for key in (read_json(public_keys_file(self._state)) or {"PublicKeyList": []})["PublicKeyList"]:
            since, until = (_seconds(key[name]) for name in ("ValidityStartTime", "ValidityEndTime"))
            if (end is None or since <= float(end)) and (start is None or until >= float(start)):
                found.append({**key, "ValidityStartTime": since, "ValidityEndTime": until})
        return {"PublicKeyList": found}

    def _status(self, site: SandboxSite) -> dict[str, Any]:
        cloud = (read_json(trails_folder(self._state) / f"{site.name}.json") or {}).get("cloud", {})
        said: dict[str, Any] = {"IsLogging": True}
        if "began" in cloud:
            said["StartLoggingTime"] = _seconds(cloud["began"])
        if "end" in cloud:
            said["LatestDeliveryTime"] = said["LatestDigestDeliveryTime"] = _seconds(cloud["end"])
        return said

    def _named(self, name: str) -> SandboxSite:
        """By its ARN, or by its plain name where there is one."""
        for site in self._sites:
            if name == _arn(site) or (name == AWS_TRAIL and len(self._sites) == 1):
                return site
        raise Refused("TrailNotFoundException", f"Unknown trail: {name}")


def _described(site: SandboxSite) -> dict[str, Any]:
    return {
        "Name": AWS_TRAIL,
        "S3BucketName": trail_buckets("aws", site.bucket)[0],
        "HomeRegion": site.region,
        "TrailARN": _arn(site),
        "IsMultiRegionTrail": False,
        "IsOrganizationTrail": False,
        "IncludeGlobalServiceEvents": False,
        "LogFileValidationEnabled": True,
    }


def _arn(site: SandboxSite) -> str:
    return f"arn:aws:cloudtrail:{site.region}:{AWS_ACCOUNT}:trail/{AWS_TRAIL}"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()
