"""What of a request's head is kept: only what is listed here. Signatures, tokens and SAS queries never are."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

_LONGEST = 512
_LONGEST_PATH = 8192
#: Query parameters whose values say what was asked. Everything else is dropped, name and all: `X-Amz-Signature`,
#: `X-Amz-Security-Token`, `sig`, `upload_id` (who has it may go on with the upload), `access_token`, `key`.
_PARAMETERS = frozenset(
    (
        # S3
        *("list-type", "prefix", "delimiter", "marker", "start-after", "max-keys", "encoding-type", "fetch-owner"),
        *("versionId", "versions", "version-id-marker", "key-marker", "uploads", "uploadId", "partNumber"),
        *("acl", "tagging", "policy", "policyStatus", "versioning", "location", "lifecycle", "cors", "encryption"),
        *("object-lock", "retention", "legal-hold", "attributes", "notification", "replication", "logging", "website"),
        *("publicAccessBlock", "ownershipControls", "delete", "restore", "select", "torrent", "inventory", "metrics"),
        *("analytics", "accelerate", "requestPayment", "intelligent-tiering"),
        # Cloud Storage, Cloud DNS
        *("alt", "uploadType", "name", "generation", "ifGenerationMatch", "ifGenerationNotMatch", "versionsOnly"),
        *("ifMetagenerationMatch", "ifMetagenerationNotMatch", "ifSourceGenerationMatch", "sourceGeneration", "type"),
        *("maxResults", "startOffset", "endOffset", "matchGlob", "projection", "project", "fields", "softDeleted"),
        # Blob storage
        *("restype", "comp", "include", "maxresults", "snapshot", "versionid", "timeout", "blockid", "blocklisttype"),
    )
)
#: Signs of a secret in the query, kept as the kind of caller they make.
_SAS, _UPLOAD_SESSION = "sig", "upload_id"
_REQUEST_HEADERS = frozenset(
    (
        *("host", "user-agent", "range", "if-match", "if-none-match", "content-length", "content-type"),
        *("x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-object-lock-mode", "x-amz-copy-source-range"),
        *("x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold", "x-amz-bypass-governance-retention"),
        *("x-amz-target", "x-ms-requires-sync"),
        *("x-goog-if-generation-match", "x-goog-metadata-directive", "content-range", "x-upload-content-length"),
        *("x-ms-version", "x-ms-client-request-id", "x-ms-blob-type", "x-ms-lease-action", "x-ms-delete-snapshots"),
        *("x-ms-range", "x-ms-blob-condition-appendpos", "x-ms-page-write", "x-http-method-override"),
    )
)
#: Copied from: another object, perhaps with a token in its query.
_SOURCES = frozenset(("x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source"))
_RESPONSE_HEADERS = frozenset(
    (
        *("content-length", "content-type", "content-encoding", "etag", "last-modified"),
        *("x-amz-request-id", "x-amz-id-2", "x-amz-version-id", "x-amz-delete-marker", "x-goog-generation"),
        *("x-ms-request-id", "x-ms-error-code", "x-ms-version", "x-ms-version-id"),
    )
)
_ACCOUNT = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}")
_SIGNED = re.compile(r"(?:AWS4|GOOG4)-[A-Z0-9-]+ .*?Credential=([^,\s]+)")
_SIMPLE = re.compile(r"(AWS|GOOG1|SharedKey|SharedKeyLite) ([^:\s]+):")


def request_of(head: bytes) -> dict[str, Any]:
    """What is kept of a request's head: ``method, target, caller, headers``."""
    start, headers, authorization = _split(head, _REQUEST_HEADERS)
    method, target, *_ = [*start.split(" "), "", ""]
    target, caller = _target(target)
    if authorization:
        caller = _caller(authorization)
    return {"method": method[:16], "target": target, "caller": caller, "headers": headers}


def response_of(head: bytes) -> dict[str, str]:
    """The headers that are kept of a response's head."""
    return _split(head, _RESPONSE_HEADERS)[1]


def target_of(target: str) -> str:
    """Path and query without what is not listed, e.g. of a call inside a batch."""
    return _target(target)[0]


def _split(head: bytes, wanted: frozenset[str]) -> tuple[str, dict[str, str], str]:
    """The start line, the headers that are wanted, the credentials."""
    start, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    authorization = ""
    for line in lines:
        name, _, value = line.partition(":")
        kept = _kept(name, wanted)
        if kept is None:
            continue
        if kept == "authorization":
            authorization = value.strip()
        elif kept in _SOURCES:
            headers[kept] = _without_query(value.strip())[:_LONGEST_PATH]
        else:
            headers[kept] = value.strip()[:_LONGEST]
    return start, headers, authorization


@lru_cache(maxsize=1024)
def _kept(name: str, wanted: frozenset[str]) -> str | None:
    """The name in lower case of a header that is looked at. There are few, and each comes thousands of times."""
    lower = name.lower()
    return lower if lower in wanted or lower == "authorization" or lower in _SOURCES else None


def _target(target: str) -> tuple[str, dict[str, str]]:
    path, mark, query = target.partition("?")
    path = _without_origin(path)[:_LONGEST_PATH]
    caller = {"kind": "anonymous"}
    if not mark:
        return path, caller
    kept = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        name = unquote(name)
        if name in _PARAMETERS:
            kept.append(pair[:_LONGEST_PATH])
        elif name.lower() in ("x-amz-credential", "x-goog-credential"):
            caller = _identified("presigned", unquote(value).split("/")[0])
        elif name == _SAS:
            caller = {"kind": "sas"}
        elif name == _UPLOAD_SESSION:
            kept.append(_UPLOAD_SESSION)
    return f"{path}?{'&'.join(kept)}" if kept else path, caller


def _caller(authorization: str) -> dict[str, str]:
    signed = _SIGNED.match(authorization)
    if signed is not None:
        scope = signed[1].split("/")
        found = _identified("signed", scope[0])
        if len(scope) >= 5 and _ACCOUNT.fullmatch(scope[-2]):
            found["service"] = scope[-2]
        return found
    simple = _SIMPLE.match(authorization)
    if simple is not None:
        return _identified("shared-key" if simple[1].startswith("Shared") else "signed", simple[2])
    scheme = authorization.partition(" ")[0].lower()
    return {"kind": scheme if scheme in ("bearer", "basic") else "other"}


def _identified(kind: str, name: str) -> dict[str, str]:
    return {"kind": kind, "id": name} if _ACCOUNT.fullmatch(name) else {"kind": kind}


def _without_origin(target: str) -> str:
    """A path of a target that may be a whole URL, with a user and a password in it."""
    scheme, mark, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if mark and scheme.isalpha() else target


def _without_query(source: str) -> str:
    path, _, query = _without_origin(source).partition("?")
    version = re.match(r"versionId=([A-Za-z0-9._-]+)", query)
    return f"{path}?{version[0]}" if version else path
