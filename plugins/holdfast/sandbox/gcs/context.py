"""What a request handler is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from holdfast.sandbox.gcs import fields
from holdfast.sandbox.gcs.bucket_resource import bucket_resource
from holdfast.sandbox.gcs.errors import invalid
from holdfast.sandbox.gcs.object_resource import object_resource
from holdfast.sandbox.gcs.records import BucketRecord, ObjectRecord
from holdfast.sandbox.gcs.storage import Storage

_MOST_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Context:
    """One request.

    Attributes:
        request: as Starlette has it.
        storage: the state of the server.
        path: the variables of the path, decoded.
        query: the query, decoded; of a repeated parameter the last.
        default_project: the project of a request that names none; None to insist on one.
    """

    request: Request
    storage: Storage
    path: Mapping[str, str]
    query: Mapping[str, str]
    default_project: str | None = None

    @property
    def headers(self) -> Headers:
        """The request's headers, by name in any case."""
        return self.request.headers

    @property
    def base_url(self) -> str:
        """Scheme and authority the client used, so that links lead back through the same proxy."""
        return f"{self.request.url.scheme}://{self.request.headers.get('host', self.request.url.netloc)}"

    async def body(self) -> bytes:
        """A small body, whole."""
        data = bytearray()
        async for chunk in self.request.stream():
            data += chunk
            if len(data) > _MOST_BODY_BYTES:
                raise invalid(f"The request body is larger than {_MOST_BODY_BYTES} bytes.", xml_code="EntityTooLarge")
        return bytes(data)

    async def resource(self) -> dict[str, Any]:
        """A JSON resource in the body; an empty one when there is none."""
        raw = await self.body()
        try:
            value = json.loads(raw) if raw.strip() else {}
        except ValueError:
            raise invalid("Parse Error") from None
        if not isinstance(value, dict):
            raise invalid("Parse Error: expected a JSON object.")
        return value

    def find_object(self) -> ObjectRecord:
        """The object the path names, or the generation of it the query asks for; 404."""
        return self.storage.find(self.path["bucket"], self.path["object"], self.number("generation"))

    def number(self, name: str) -> int | None:
        """A numeric query parameter; 400 when it is something else."""
        text = self.query.get(name)
        if text is None:
            return None
        if not text.isdecimal():
            raise invalid(f"{name}: expected a non-negative integer, found {text!r}.", location=name)
        return int(text)

    def flag(self, name: str) -> bool:
        """A boolean query parameter."""
        return self.query.get(name, "false").lower() == "true"

    def json(self, value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """A JSON answer, cut to the ``fields`` asked for."""
        if self.query.get("fields"):
            value = fields.select(fields.parse(self.query["fields"]), value)
        body = json.dumps(value, ensure_ascii=False).encode()
        return Response(body, status, headers, media_type="application/json; charset=UTF-8")

    def object(self, record: ObjectRecord, bucket: BucketRecord | None = None) -> dict[str, Any]:
        """An object's resource."""
        return object_resource(record, bucket or self.storage.bucket(record.bucket), self.base_url)

    def bucket(self, record: BucketRecord) -> dict[str, Any]:
        """A bucket's resource."""
        return bucket_resource(record, self.base_url)
