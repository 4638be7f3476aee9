"""What is asked of an S3 bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.aws_api import AwsApi
from holdfast.engine.audit.posture.interface import (
    Ask,
    CannotTell,
    Judgement,
    NotThere,
    Place,
    Thresholds,
    failed,
    not_applicable,
    passed,
    unknown,
)

_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_EVERYBODY = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)


class AwsBucket:
    """The checks of one site's bucket."""

    def __init__(self, api: AwsApi, place: Place, thresholds: Thresholds) -> None:
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

    def _default_encryption(self) -> dict[str, Any]:
        """Raises NotThere, CannotTell."""
        found = self._s3("get_bucket_encryption")["ServerSideEncryptionConfiguration"]["Rules"]
        rules = [
            rule["ApplyServerSideEncryptionByDefault"] for rule in found if "ApplyServerSideEncryptionByDefault" in rule
        ]
        if not rules:
            raise NotThere("there is no default encryption", where=self._bucket)
        return dict(rules[0])

    def _encryption(self) -> Judgement:
        wanted = self._place.site.kms_key
        expected = f"default encryption with {wanted or 'any key'}"
        fix = f"aws s3api put-bucket-encryption --bucket {self._bucket} … with SSEAlgorithm aws:kms and the key"
        try:
            rule = self._default_encryption()
        except NotThere:
            return failed(expected, "no default encryption", fix)
        algorithm, key = rule["SSEAlgorithm"], rule.get("KMSMasterKeyID")
        said = f"{algorithm} with {key}" if key else f"{algorithm} with {_own_key(algorithm)}"
        if wanted is not None and key != wanted:
            return failed(expected, said, fix, algorithm=algorithm, key=key)
        return passed(expected, said, algorithm=algorithm, key=key)

    def _rotation(self) -> Judgement:
        longest = self._thresholds.rotation.days
        expected = f"an enabled key that is rotated at least every {longest} days"
        try:
            rule = self._default_encryption()
        except NotThere:
            return failed(expected, "no default encryption", "Set one first")
        key = rule.get("KMSMasterKeyID")
        if not rule["SSEAlgorithm"].startswith("aws:kms"):
            return not_applicable(expected, "S3's own keys, which AWS rotates and nobody can look at")
        if key is None:
            return not_applicable(expected, "the AWS managed key aws/s3, which AWS rotates every year")
        described = self._api.call("kms", "describe_key", KeyId=key)["KeyMetadata"]
        facts = {name: described.get(name) for name in ("KeyState", "KeyManager", "Origin", "KeySpec")}
        if described.get("KeyState") != "Enabled":
            return failed(
                expected, f"the key is {described.get('KeyState')}", "Enable it, or name another key", **facts
            )
        if described.get("KeyManager") == "AWS":
            return passed(expected, "an AWS managed key, rotated every year", **facts)
        status = self._api.call("kms", "get_key_rotation_status", KeyId=key)
        period = status.get("RotationPeriodInDays")
        facts |= {"rotation": status.get("KeyRotationEnabled"), "period_days": period}
        fix = f"aws kms enable-key-rotation --key-id {key} --rotation-period-in-days 365"
        if not status.get("KeyRotationEnabled"):
            return failed(expected, "rotation is off", fix, **facts)
        if period is not None and period > longest:
            return failed(expected, f"rotated every {period} days", fix, **facts)
        return passed(expected, f"rotated every {period or 365} days", **facts)

    def _versioning(self) -> Judgement:
        found = self._s3("get_bucket_versioning")
        status, deletes = found.get("Status", "off"), found.get("MFADelete", "off")
        if status != "Enabled":
            fix = f"aws s3api put-bucket-versioning --bucket {self._bucket} --versioning-configuration Status=Enabled"
            return failed("versioning Enabled", f"versioning {status}", fix, mfa_delete=deletes)
        return passed("versioning Enabled", "versioning Enabled", mfa_delete=deletes)

    def _object_lock(self) -> Judgement:
        expected = "Object Lock enabled"
        try:
            found = self._s3("get_object_lock_configuration")["ObjectLockConfiguration"]
        except NotThere:
            found = {}
        if found.get("ObjectLockEnabled") == "Enabled":
            rule = found.get("Rule", {}).get("DefaultRetention")
            return passed(expected, f"enabled, default retention {rule or 'none'}", default_retention=rule)
        if not self._place.must_lock:
            return not_applicable(expected, "off, and the topology keeps nothing locked here")
        fix = f"aws s3api put-object-lock-configuration --bucket {self._bucket} … (versioning must be on)"
        return failed(expected, "off, though the topology locks what lies here", fix)

    def _public_access(self) -> Judgement:
        expected = "all four blocks of public access, no public policy, no grant to everybody"
        fix = f"aws s3api put-public-access-block --bucket {self._bucket} … with all four set"
        policy, grants = self._has_public_policy(), self._grants()
        facts: dict[str, Any] = {"public_policy": policy, "grants_to_everybody": grants}
        if policy or grants:
            found = "a public policy" if policy else f"{', '.join(grants)} granted to everybody"
            return failed(expected, f"{found}: open, or one setting away from it", fix, **facts)
        block, whose = self._block()
        facts |= {"block": block, "block_of": whose}
        if all(block.get(name) for name in _BLOCKS):
            return passed(expected, f"all four blocks, set for the {whose}", **facts)
        return failed(expected, "not public now, but nothing forbids it", fix, **facts)

    def _block(self) -> tuple[dict[str, bool], str]:
        """The bucket's block, and where that is not whole the account's beside it."""
        try:
            found = dict(self._s3("get_public_access_block")["PublicAccessBlockConfiguration"])
        except NotThere:
            found = {}
        if all(found.get(name) for name in _BLOCKS):
            return found, "bucket"
        try:
            account = self._api.call("sts", "get_caller_identity")["Account"]
            wider = self._api.call("s3control", "get_public_access_block", AccountId=account)
        except NotThere:
            return found, "bucket"
        settings = wider["PublicAccessBlockConfiguration"]
        return {name: bool(found.get(name) or settings.get(name)) for name in _BLOCKS}, "account and bucket"

    def _has_public_policy(self) -> bool:
        try:
            return bool(self._s3("get_bucket_policy_status")["PolicyStatus"]["IsPublic"])
        except NotThere:
            return False

    def _grants(self) -> list[str]:
        grants = self._s3("get_bucket_acl").get("Grants", [])
        return [grant["Permission"] for grant in grants if grant["Grantee"].get("URI") in _EVERYBODY]

    def _tls_only(self) -> Judgement:
        expected = "a bucket policy that denies every action where aws:SecureTransport is false"
        fix = "docs/security/policies/aws/bucket-tls-only.json is such a policy"
        try:
            policy = json.loads(self._s3("get_bucket_policy")["Policy"])
        except NotThere:
            return failed(expected, "no bucket policy", fix)
        except ValueError:
            return unknown(expected, "a bucket policy that is not JSON")
        covered: set[str] = set()
        for statement in _listed(policy.get("Statement")):
            if denies_plain_http(statement):
                covered |= set(_listed(statement.get("Resource")))
        arn = f"arn:{partition_of(self._place.site.region)}:s3:::{self._bucket}"
        missing = [one for one in (arn, f"{arn}/*") if not covered & {one, "*", f"{arn}*"}]
        if missing:
            return failed(expected, f"nothing that covers {' and '.join(missing)}", fix)
        return passed(expected, "such a policy")

    def _data_access_logs(self) -> Judgement:
        expected = "a trail that logs reads and writes of this bucket's objects"
        fix = "aws cloudtrail put-event-selectors … with AWS::S3::Object of this bucket"
        looked, refused = [], []
        for trail in self._api.call("cloudtrail", "describe_trails").get("trailList", []):
            try:
                logging = self._api.call("cloudtrail", "get_trail_status", Name=trail["TrailARN"]).get("IsLogging")
                found = self._api.call("cloudtrail", "get_event_selectors", TrailName=trail["TrailARN"])
            except CannotTell as error:
                refused.append(str(error))
                continue
            looked.append(trail["TrailARN"])
            if logging and selects(found, self._bucket, partition_of(self._place.site.region)):
                return passed(expected, f"the trail {trail['TrailARN']}", trail=trail["TrailARN"])
        if refused:
            return unknown(expected, f"trails that cannot be looked at: {'; '.join(refused)}", trails=looked)
        return failed(expected, f"{len(looked)} trails, none of which does", fix, trails=looked)

    def _s3(self, method: str) -> Any:
        return self._api.call("s3", method, Bucket=self._bucket)


def denies_plain_http(statement: Mapping[str, Any]) -> bool:
    """A statement that denies everybody everything over plain HTTP, under no other condition."""
    condition = statement.get("Condition") or {}
    inner = condition.get("Bool") or {}
    principal = statement.get("Principal")
    return (
        statement.get("Effect") == "Deny"
        and (principal == "*" or (isinstance(principal, Mapping) and "*" in _listed(principal.get("AWS"))))
        and bool({"s3:*", "*"} & set(_listed(statement.get("Action"))))
        and set(condition) == {"Bool"}
        and {name.lower() for name in inner} == {"aws:securetransport"}
        and [str(value).lower() for value in _listed(next(iter(inner.values())))] == ["false"]
    )


def selects(found: Mapping[str, Any], bucket: str, partition: str) -> bool:
    """Whether a trail's selectors take reads and writes of all objects of a bucket, for certain."""
    arn = f"arn:{partition}:s3:::{bucket}/"
    for selector in found.get("EventSelectors") or []:
        for resource in selector.get("DataResources") or []:
            wide = {f"arn:{partition}:s3", f"arn:{partition}:s3:::", arn} & set(resource.get("Values") or [])
            if selector.get("ReadWriteType") == "All" and resource.get("Type") == "AWS::S3::Object" and wide:
                return True
    return any(_advanced_selects(one, arn) for one in found.get("AdvancedEventSelectors") or [])


def _advanced_selects(selector: Mapping[str, Any], arn: str) -> bool:
    fields = {field["Field"]: field for field in selector.get("FieldSelectors") or []}
    if fields.get("resources.type", {}).get("Equals") != ["AWS::S3::Object"]:
        return False
    if fields.get("eventCategory", {}).get("Equals") != ["Data"]:
        return False
    narrowing = set(fields) - {"resources.type", "eventCategory", "resources.ARN"}
    where = fields.get("resources.ARN")
    return not narrowing and (where is None or any(arn.startswith(one) for one in where.get("StartsWith") or []))


def partition_of(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def _own_key(algorithm: str) -> str:
    return "the AWS managed key aws/s3" if algorithm.startswith("aws:kms") else "S3's own keys"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
