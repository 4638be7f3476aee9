"""A custom role of Azure's before a Blob server, for `enforcing`.

After Azure's table of permissions for data operations. A role holds no prefix: its scope is the container at the least.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from enforcing import Need, Refusal, Request

CONTAINER = "Microsoft.Storage/storageAccounts/blobServices/containers"
BLOB = f"{CONTAINER}/blobs"
_LOCK = f"{BLOB}/immutableStorage/runAsSuperUser/action"


class RoleDefinition:
    """A role's actions and data actions.

    Args:
        document: as ``az role definition create`` takes it.
        without: an action that is taken out.
    """

    def __init__(self, document: Mapping[str, Any], *, without: str | None = None) -> None:
        self._actions = {*document["Actions"], *document["DataActions"]} - {without}

    def needs(self, request: Request) -> list[Need]:
        parts = request.path.strip("/").split("/", 2)  # /account/container/blob
        comp = request.query.get("comp")
        if len(parts) == 2 and request.query.get("restype") == "container" and request.method in ("GET", "HEAD"):
            if comp == "list":
                return [Need(f"{BLOB}/read", parts[1])]
            if comp is None:
                return [Need(f"{CONTAINER}/read", parts[1])]
        if comp == "batch" and request.method == "POST":
            # A batch asks for the right to change the container beside that of each request in it.
            inner = re.findall(rb"^([A-Z]+) (\S+) HTTP/1.1", request.body, re.MULTILINE)
            if {method for method, _ in inner} != {b"DELETE"}:
                raise LookupError("a batch of something else than deletions")
            return [Need(f"{CONTAINER}/write", parts[1]), Need(f"{BLOB}/delete", parts[1])]
        if len(parts) == 3:
            return self._of_blob(request, comp, f"{parts[1]}/{parts[2]}")
        raise LookupError("a request this file does not know")

    def _of_blob(self, request: Request, comp: str | None, name: str) -> list[Need]:
        if request.method in ("GET", "HEAD"):
            if comp == "tags":
                return [Need(f"{BLOB}/tags/read", name)]
            if comp in (None, "blocklist"):
                return [Need(f"{BLOB}/read", name)]
        if request.method == "DELETE":
            if comp == "immutabilityPolicies":
                return [Need(_LOCK, name)]
            if comp is None:
                by_version = "versionid" in request.query
                return [Need(f"{BLOB}/deleteBlobVersion/action" if by_version else f"{BLOB}/delete", name)]
        if request.method == "PUT":
            if comp == "immutabilityPolicies":
                return [Need(_LOCK, name)]
            if comp in (None, "block", "blocklist"):
                needs = [Need(f"{BLOB}/write", name)]
                if "x-ms-copy-source" in request.headers:
                    needs.append(Need(f"{BLOB}/read", name))
                if "x-ms-tags" in request.headers:
                    needs.append(Need(f"{BLOB}/tags/write", name))
                return needs
        raise LookupError("a request this file does not know")

    def allows(self, need: Need) -> bool:
        return need.action in self._actions

    def refusal(self, request: Request, need: Need) -> Refusal:
        """Azure names no permission."""
        code = "AuthorizationPermissionMismatch"
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>not authorized</Message></Error>'
        )
        return Refusal(403, {"Content-Type": "application/xml", "x-ms-error-code": code}, text.encode())

    def hides_absence(self, request: Request) -> Need | None:
        return None

    def shows_lock(self, request: Request) -> Need | None:
        return None
