"""Which operation of Azure's blob storage a request is, by the names its resource logs use.

https://learn.microsoft.com/rest/api/storageservices/storage-analytics-logged-operations-and-status-messages
"""

from __future__ import annotations

from holdfast.sandbox.trails.exchanges import Exchange

_READS = frozenset(("GET", "HEAD"))
_ACCOUNT = {
    ("GET", "list"): "ListContainers",
    ("GET", "properties"): "GetBlobServiceProperties",
    ("PUT", "properties"): "SetBlobServiceProperties",
    ("GET", "stats"): "GetBlobServiceStats",
    ("POST", "batch"): "SubmitBatch",
    ("POST", "userdelegationkey"): "GetUserDelegationKey",
}
_CONTAINER = {
    ("PUT", ""): "CreateContainer",
    ("GET", ""): "GetContainerProperties",
    ("DELETE", ""): "DeleteContainer",
    ("GET", "list"): "ListBlobs",
    ("GET", "metadata"): "GetContainerMetadata",
    ("PUT", "metadata"): "SetContainerMetadata",
    ("GET", "acl"): "GetContainerACL",
    ("PUT", "acl"): "SetContainerACL",
    ("POST", "batch"): "SubmitBatch",
}
_BLOB = {
    ("GET", ""): "GetBlob",
    ("DELETE", ""): "DeleteBlob",
    ("PUT", "block"): "PutBlock",
    ("PUT", "blocklist"): "PutBlockList",
    ("GET", "blocklist"): "GetBlockList",
    ("GET", "metadata"): "GetBlobMetadata",
    ("PUT", "metadata"): "SetBlobMetadata",
    ("PUT", "properties"): "SetBlobProperties",
    ("PUT", "appendblock"): "AppendBlock",
    ("PUT", "page"): "PutPage",
    ("GET", "pagelist"): "GetPageRegions",
    ("PUT", "snapshot"): "SnapshotBlob",
    ("PUT", "undelete"): "UndeleteBlob",
    ("PUT", "tier"): "SetBlobTier",
    ("GET", "tags"): "GetBlobTags",
    ("PUT", "tags"): "SetBlobTags",
    ("PUT", "copy"): "AbortCopyBlob",
    ("PUT", "immutabilityPolicies"): "SetBlobImmutabilityPolicy",
    ("DELETE", "immutabilityPolicies"): "DeleteBlobImmutabilityPolicy",
    ("PUT", "legalhold"): "SetBlobLegalHold",
}


def azure_operation(exchange: Exchange) -> tuple[str, str]:
    """The operation, and the category of its log."""
    name = _operation(exchange)
    if name.startswith("Delete"):
        return name, "StorageDelete"
    return name, "StorageRead" if exchange.method in _READS else "StorageWrite"


def _operation(exchange: Exchange) -> str:
    """The path of an emulator begins with the account."""
    comp = exchange.query.get("comp", "")
    method = "GET" if exchange.method == "HEAD" else exchange.method
    rest = [one for one in exchange.segments[1:] if one]
    if not rest or exchange.query.get("restype") in ("service", "account"):
        return (
            "GetAccountInformation" if exchange.query.get("restype") == "account" else _ACCOUNT.get((method, comp), "")
        )
    if exchange.query.get("restype") == "container" or len(rest) == 1:
        return _lease(exchange, "Container") if comp == "lease" else _CONTAINER.get((method, comp), "")
    if comp == "lease":
        return _lease(exchange, "Blob")
    if (method, comp) == ("PUT", ""):
        if "x-ms-copy-source" not in exchange.headers:
            return "PutBlob"
        return "CopyBlobFromURL" if exchange.headers.get("x-ms-requires-sync") == "true" else "CopyBlob"
    if exchange.method == "HEAD" and not comp:
        return "GetBlobProperties"
    return _BLOB.get((method, comp), "")


def _lease(exchange: Exchange, what: str) -> str:
    return f"{exchange.headers.get('x-ms-lease-action', '').capitalize()}{what}Lease"
