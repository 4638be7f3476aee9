"""Which operation of S3 a request is, by the names CloudTrail gives them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from holdfast.sandbox.trails.exchanges import Exchange

_VERBS = {"GET": "Get", "HEAD": "Get", "PUT": "Put", "DELETE": "Delete", "POST": "Post"}
#: Subresource in the query → what follows the verb in the operation's name.
_OF_BUCKET = {
    "acl": "BucketAcl",
    "policyStatus": "BucketPolicyStatus",
    "policy": "BucketPolicy",
    "versioning": "BucketVersioning",
    "location": "BucketLocation",
    "lifecycle": "BucketLifecycle",
    "cors": "BucketCors",
    "encryption": "BucketEncryption",
    "object-lock": "BucketObjectLockConfiguration",
    "notification": "BucketNotification",
    "replication": "BucketReplication",
    "logging": "BucketLogging",
    "website": "BucketWebsite",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "ownershipControls": "BucketOwnershipControls",
    "tagging": "BucketTagging",
}
_OF_OBJECT = {
    "acl": "ObjectAcl",
    "tagging": "ObjectTagging",
    "retention": "ObjectRetention",
    "legal-hold": "ObjectLegalHold",
    "attributes": "ObjectAttributes",
    "torrent": "ObjectTorrent",
}
_PLAIN_BUCKET = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
_PLAIN_OBJECT = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
_OF_UPLOAD = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}


@dataclass(frozen=True, slots=True)
class S3Call:
    """An operation and what it is about.

    Args:
        name: CloudTrail's; both listings of objects are ``ListObjects`` there.
        is_data: on objects, so a data event; else a management event.
    """

    name: str
    bucket: str | None
    key: str | None
    read_only: bool
    is_data: bool


def s3_call(exchange: Exchange) -> S3Call:
    """What a request to S3, by path, asks for; ``Unknown`` where the API has no such thing."""
    bucket, _, key = exchange.path.removeprefix("/").partition("/")
    bucket, key = unquote(bucket), unquote(key)
    if not bucket:
        return S3Call("ListBuckets" if exchange.method == "GET" else "Unknown", None, None, True, False)
    name = _object(exchange) if key else _bucket(exchange)
    read_only = name.startswith(("Get", "Head", "List", "Select"))
    is_data = bool(key) or name in ("ListObjects", "ListObjectVersions", "DeleteObjects", "ListMultipartUploads")
    return S3Call(name, bucket, key or None, read_only, is_data)


def _bucket(exchange: Exchange) -> str:
    query, method = exchange.query, exchange.method
    if method == "POST":
        return "DeleteObjects" if "delete" in query else "PostObject"
    if method == "GET" and "uploads" in query:
        return "ListMultipartUploads"
    if method == "GET" and "versions" in query:
        return "ListObjectVersions"
    for subresource, name in _OF_BUCKET.items():
        if subresource in query:
            return _VERBS.get(method, "Unknown") + name
    return _PLAIN_BUCKET.get(method, "Unknown")


def _object(exchange: Exchange) -> str:
    query, method = exchange.query, exchange.method
    copies = "x-amz-copy-source" in exchange.headers
    if "uploadId" in query:
        name = _OF_UPLOAD.get(method, "ListParts")
        return "UploadPartCopy" if copies and method == "PUT" else name
    if method == "POST":
        found = (("uploads", "CreateMultipartUpload"), ("restore", "RestoreObject"), ("select", "SelectObjectContent"))
        return next((name for subresource, name in found if subresource in query), "Unknown")
    for subresource, name in _OF_OBJECT.items():
        if subresource in query:
            return _VERBS.get(method, "Unknown") + name
    return "CopyObject" if copies and method == "PUT" else _PLAIN_OBJECT.get(method, "Unknown")
