"""Writing to an emulated cloud past its fault proxy, so that a delivery is no event of its own.

Spoken by hand over HTTP like `holdfast.sandbox.provision`: three SDKs would cost more than the rest of the sandbox.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.provision import azure_headers, s3_headers

_ATTEMPTS, _PAUSE_SECONDS = 3, 0.2
#: Azurite takes no longer blocks.
_BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Emulator:
    """One store's port.

    Args:
        timeout_seconds: of each attempt; there are three.
    """

    def __init__(self, port: int, *, timeout_seconds: float = 5.0) -> None:
        self._port = port
        self._timeout_seconds = timeout_seconds

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], expect: tuple[int, ...]) -> Answer:
        """One call that may be made again.

        Raises:
            PartFailed: it answered something else, or not at all.
        """
        failure: object = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS * attempt)
            try:
                answer = self._once(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                failure = error
                continue
            if answer.status in expect:
                return answer
            failure = f"{answer.status} {answer.body[:200]!r}"
            if answer.status < 500:
                break
        raise PartFailed(
            "the trail could not be written",
            where=f"{method} http://{HOST}:{self._port}{path.partition('?')[0]}",
            expected=" or ".join(map(str, expect)),
            found=str(failure),
            fix="What was recorded stays, and the next delivery takes it: holdfast sandbox trails deliver",
        )

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=self._timeout_seconds)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    # -- S3 -----------------------------------------------------------------------------------------------------

    def put_s3(
        self, region: str, bucket: str, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        headers = {**s3_headers(region), "Content-Type": content_type, "Content-Encoding": "gzip"}
        headers |= {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        self.ask("PUT", f"/{bucket}/{quote(key)}", data, headers, (200,))

    # -- Cloud Storage ------------------------------------------------------------------------------------------

    def put_gcs(self, bucket: str, name: str, data: bytes) -> None:
        query = urlencode({"uploadType": "media", "name": name})
        headers = {"Content-Type": "application/json"}
        self.ask("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", data, headers, (200,))

    # -- Blob storage -------------------------------------------------------------------------------------------

    def azure_length(self, container: str, blob: str) -> int | None:
        """Of an append blob, in bytes; ``None`` where there is none."""
        answer = self._azure("HEAD", container, blob, {}, b"", {}, (200, 404))
        return int(answer.headers["content-length"]) if answer.status == 200 else None

    def azure_append(self, container: str, blob: str, data: bytes, at: int) -> None:
        """Append at exactly this length, block after block; the blob is made at length 0."""
        if at == 0:
            made = {"x-ms-blob-type": "AppendBlob", "If-None-Match": "*", "Content-Type": "application/json"}
            self._azure("PUT", container, blob, {}, b"", made, (201, 409))
        for start in range(0, len(data), _BLOCK_BYTES):
            condition = {"x-ms-blob-condition-appendpos": str(at + start)}
            block = data[start : start + _BLOCK_BYTES]
            self._azure("PUT", container, blob, {"comp": "appendblock"}, block, condition, (201,))

    def _azure(
        self,
        method: str,
        container: str,
        blob: str,
        query: Mapping[str, str],
        body: bytes,
        headers: Mapping[str, str],
        expect: tuple[int, ...],
    ) -> Answer:
        path = f"/{container}/{quote(blob, safe='/=')}"
        signed = azure_headers(method, path, query, headers, len(body))
        target = f"{signed.path}?{urlencode(query)}" if query else signed.path
        return self.ask(method, target, body, signed.headers, expect)
