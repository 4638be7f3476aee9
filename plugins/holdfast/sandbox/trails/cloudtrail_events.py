"""Exchanges with the emulated AWS as CloudTrail's records.

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
"""

from __future__ import annotations

from typing import Any

from holdfast.sandbox.trails.exchanges import Exchange
from holdfast.sandbox.trails.names import AWS_ACCOUNT, MARK
from holdfast.sandbox.trails.s3_calls import S3Call, s3_call

VERSION = "1.11"
#: What S3 says where its answer has no body to say it in.
_CODES = {
    400: "BadRequest",
    403: "AccessDenied",
    405: "MethodNotAllowed",
    409: "Conflict",
    412: "PreconditionFailed",
    416: "InvalidRange",
    501: "NotImplemented",
    503: "ServiceUnavailable",
}
NO_ANSWER = "NoAnswerSeen"


def is_of_the_cloud(exchange: Exchange) -> bool:
    """Not a call of moto's own control interface."""
    return not exchange.path.startswith("/moto-api")


def cloudtrail_event(exchange: Exchange, region: str) -> dict[str, Any]:
    """One record."""
    service = "cloudtrail" if exchange.listener == "trail" else exchange.caller.get("service") or "s3"
    call = s3_call(exchange) if service == "s3" else _other(exchange)
    is_data = call.is_data
    event: dict[str, Any] = {
        "eventVersion": VERSION,
        "userIdentity": _identity(exchange),
        "eventTime": exchange.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": f"{service}.amazonaws.com",
        "eventName": call.name,
        "awsRegion": region,
        "sourceIPAddress": exchange.peer.rpartition(":")[0],
        "userAgent": f"[{exchange.headers.get('user-agent', '')}]",
        "requestParameters": _parameters(exchange, call),
        "responseElements": _elements(exchange, call),
        "additionalEventData": _more(exchange),
        "requestID": exchange.answer.get("x-amz-request-id") or exchange.id.replace("-", "")[:16].upper(),
        "eventID": exchange.id,
        "readOnly": call.read_only,
        "eventType": "AwsApiCall",
        "managementEvent": not is_data,
        "recipientAccountId": AWS_ACCOUNT,
        "eventCategory": "Data" if is_data else "Management",
    }
    if call.bucket:
        event["resources"] = _resources(call)
    code = _error_code(exchange, call)
    if code is not None:
        event["errorCode"] = code
        event["errorMessage"] = "no answer was seen" if code == NO_ANSWER else f"status {exchange.status}"
    return event


def _identity(exchange: Exchange) -> dict[str, str]:
    key = exchange.caller.get("id")
    if key is None:
        return {"type": "AWSAccount", "principalId": "", "accountId": "ANONYMOUS_PRINCIPAL"}
    return {
        "type": "IAMUser",
        "principalId": key,
        "arn": f"arn:aws:iam::{AWS_ACCOUNT}:user/{key}",
        "accountId": AWS_ACCOUNT,
        "accessKeyId": key,
        "userName": key,
    }


def _parameters(exchange: Exchange, call: S3Call) -> dict[str, str] | None:
    if call.bucket is None:
        return None
    found = {"bucketName": call.bucket, "Host": exchange.headers.get("host", "")}
    if call.key is not None:
        found["key"] = call.key
    found.update(exchange.query)
    found.update({name: value for name, value in exchange.headers.items() if _is_parameter(name)})
    return found


def _is_parameter(header: str) -> bool:
    return header.startswith("x-amz-") or header in ("range", "if-match", "if-none-match")


def _elements(exchange: Exchange, call: S3Call) -> dict[str, str] | None:
    if call.read_only or exchange.failed:
        return None
    return {name: value for name, value in exchange.answer.items() if name.startswith("x-amz-")} or None


def _more(exchange: Exchange) -> dict[str, Any]:
    kind = exchange.caller.get("kind")
    methods = {"signed": "AuthHeader", "presigned": "QueryString"}
    found: dict[str, Any] = {
        "bytesTransferredIn": exchange.sent_bytes,
        "bytesTransferredOut": exchange.received_bytes,
        MARK: True,
    }
    if kind in methods:
        found |= {"SignatureVersion": "SigV4", "AuthenticationMethod": methods[kind]}
    if exchange.end != "whole":
        found["holdfastSandboxEnd"] = exchange.end
    return found


def _resources(call: S3Call) -> list[dict[str, str]]:
    found = []
    if call.key is not None:
        found.append({"type": "AWS::S3::Object", "ARN": f"arn:aws:s3:::{call.bucket}/{call.key}"})
    found.append({"accountId": AWS_ACCOUNT, "type": "AWS::S3::Bucket", "ARN": f"arn:aws:s3:::{call.bucket}"})
    return found


def _error_code(exchange: Exchange, call: S3Call) -> str | None:
    if exchange.status == 0:
        return NO_ANSWER
    if exchange.status < 400:
        return None
    missing = "NoSuchKey" if call.key else "NoSuchBucket"
    fallback = missing if exchange.status == 404 else _CODES.get(exchange.status, "InternalError")
    return exchange.error or fallback


def _other(exchange: Exchange) -> S3Call:
    """An operation of another service, which moto answers on the same port."""
    name = exchange.headers.get("x-amz-target", "").rpartition(".")[2] or exchange.action or "Unknown"
    return S3Call(name, None, None, name.startswith(("Get", "List", "Describe")), False)
