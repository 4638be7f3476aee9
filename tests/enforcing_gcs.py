"""A custom role of Google's before a Cloud Storage server, for `enforcing`.

After Google's tables of permissions for XML and JSON methods: what replaces an object needs ``storage.objects.delete``
too, and a missing object is told from a forbidden one only to who may list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import httpx

from enforcing import Need, Refusal, Request


class CustomRole:
    """A role's permissions on every bucket.

    Args:
        document: of the role, with ``includedPermissions``.
        upstream: the server, which is asked whether an object is there already.
        without: a permission that is taken out.
    """

    def __init__(self, document: Mapping[str, Any], upstream: str, *, without: str | None = None) -> None:
        self._permissions = set(document["includedPermissions"]) - {without}
        self._upstream = upstream

    def needs(self, request: Request) -> list[Need]:
        parts = request.path.strip("/").split("/")
        if parts[:3] == ["upload", "storage", "v1"]:
            return self._upload(request, parts[4])
        if parts[:3] == ["storage", "v1", "b"]:
            return self._json(request, parts)
        return self._xml(request, parts[0], "/".join(parts[1:]))

    def _upload(self, request: Request, bucket: str) -> list[Need]:
        if request.method in ("PUT", "DELETE"):
            return []  # the session's URL is what authorises these
        name = request.query.get("name") or json.loads(request.body or b"{}").get("name", "")
        return self._creates(bucket, name, is_new=request.query.get("ifGenerationMatch") == "0")

    def _json(self, request: Request, parts: list[str]) -> list[Need]:
        bucket = parts[3]
        if len(parts) == 4 and request.method == "GET":
            return [Need("storage.buckets.get", bucket)]
        if len(parts) == 5 and parts[4] == "o" and request.method == "GET":
            return [Need("storage.objects.list", bucket)]
        if len(parts) > 5 and parts[4] == "o":
            name = f"{bucket}/{'/'.join(parts[5:])}"
            if request.method == "GET":
                return [Need("storage.objects.get", name)]
            if request.method == "DELETE":
                return [Need("storage.objects.delete", name)]
            if request.method == "PATCH":
                needs = [Need("storage.objects.update", name)]
                if "retention" in json.loads(request.body):
                    needs.append(Need("storage.objects.setRetention", name))
                if request.query.get("overrideUnlockedRetention", "").lower() == "true":
                    needs.append(Need("storage.objects.overrideUnlockedRetention", name))
                return needs
        raise LookupError("a JSON request this file does not know")

    def _xml(self, request: Request, bucket: str, key: str) -> list[Need]:
        name = f"{bucket}/{key}"
        if not key:
            if request.method == "GET" and ("list-type" in request.query or "prefix" in request.query):
                return [Need("storage.objects.list", bucket)]
            raise LookupError("an XML request this file does not know")
        if request.method in ("GET", "HEAD"):
            return [Need("storage.objects.get", name)]
        if request.method == "DELETE":
            return [Need("storage.objects.delete", name)]
        if request.method == "PUT" and not request.query:
            is_new = request.headers.get("x-goog-if-generation-match") == "0"
            needs = self._creates(bucket, key, is_new=is_new)
            if source := request.headers.get("x-goog-copy-source"):
                needs.append(Need("storage.objects.get", unquote(source)))
            return needs
        raise LookupError("an XML request this file does not know")

    def _creates(self, bucket: str, key: str, *, is_new: bool) -> list[Need]:
        name = f"{bucket}/{key}"
        needs = [Need("storage.objects.create", name)]
        if not is_new and self._is_there(bucket, key):
            needs.append(Need("storage.objects.delete", name))
        return needs

    def _is_there(self, bucket: str, key: str) -> bool:
        path = f"/storage/v1/b/{quote(bucket)}/o/{quote(key, safe='')}"
        return httpx.get(f"{self._upstream}{path}", trust_env=False).status_code == 200

    def allows(self, need: Need) -> bool:
        return need.action in self._permissions

    def refusal(self, request: Request, need: Need) -> Refusal:
        said = (
            f"holdfast@p.iam.gserviceaccount.com does not have {need.action} access to the object. "
            f"Permission '{need.action}' denied on resource (or it may not exist)."
        )
        if request.path.startswith(("/storage/v1/", "/upload/")):
            document = {"error": {"code": 403, "message": said, "errors": [{"reason": "forbidden", "message": said}]}}
            return Refusal(403, {"Content-Type": "application/json"}, json.dumps(document).encode())
        text = f"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Details>{said}</Details></Error>"
        return Refusal(403, {"Content-Type": "application/xml"}, text.encode())

    def hides_absence(self, request: Request) -> Need | None:
        needs = self.needs(request)
        reads = [need for need in needs if need.action == "storage.objects.get"]
        return Need("storage.objects.list", reads[0].resource) if reads and request.method in ("GET", "HEAD") else None

    def shows_lock(self, request: Request) -> Need | None:
        return None
