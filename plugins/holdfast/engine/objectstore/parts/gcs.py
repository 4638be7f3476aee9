"""Parts on Google Cloud Storage: the JSON API's resumable uploads, because they are the ones that can be create-only.

The XML API's multipart uploads take no preconditions, so that the last writer would win. A resumable upload carries
``ifGenerationMatch=0`` from its start; the price is that one object goes over one stream, part after part.

The end of the last part (256 KiB at most) is kept in memory until `complete`, which sends it together with the size and
the CRC-32C of the whole: an upload whose last byte has arrived *is* the object.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._translate import Call, translate_answer
from holdfast.engine.objectstore.access import Credentials, StoreAccess
from holdfast.engine.objectstore.checksums import Checksums, from_google_text, google_text
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, ObjectStoreError, StoreUnavailable
from holdfast.engine.objectstore.interface import OVERWRITE, Create, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts._base import (
    at_microseconds,
    check_begin,
    check_mode,
    check_part,
    check_whole,
    corrupted,
    microseconds,
    upload_gone,
)
from holdfast.engine.objectstore.parts._credentials import KeptCredentials
from holdfast.engine.objectstore.parts._http import Answer
from holdfast.engine.objectstore.parts._listed import Listed, s3_listed, s3_query
from holdfast.engine.objectstore.parts._over_http import HttpParts
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, Upload, UploadedPart
from holdfast.engine.objectstore.timeouts import Timeouts

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore
    from holdfast.engine.objectstore.attributes import Attributes

_MIB = 1024 * 1024
_GRANULE_BYTES = 256 * 1024
_SERVICE = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_FIELDS = {
    "Content-Type": "contentType",
    "Cache-Control": "cacheControl",
    "Content-Disposition": "contentDisposition",
    "Content-Encoding": "contentEncoding",
    "Content-Language": "contentLanguage",
    "Storage-Class": "storageClass",
}
#: A request that was only partly taken is continued so often.
_MOST_CONTINUATIONS = 16


@dataclass(frozen=True, slots=True)
class _Session:
    """What an upload id says: how the object is cut, in which mode it was begun, and the session's URI."""

    create: bool
    size_bytes: int
    part_bytes: int
    began: int
    target: str

    def text(self) -> str:
        mode = "create" if self.create else "overwrite"
        return f"{mode}:{self.size_bytes}:{self.part_bytes}:{self.began}:{self.target}"

    @classmethod
    def of(cls, upload: Upload, start: str, call: Call) -> _Session:
        mode, _, rest = upload.upload_id.partition(":")
        try:
            size, part, began, target = rest.split(":", 3)
            session = cls(mode == "create", int(size), int(part), int(began), target)
        except ValueError:
            raise upload_gone(call, "an upload id of another backend") from None
        # The id may come from a journal: a token is never sent anywhere but to this bucket's uploads.
        if not target.startswith(start):
            raise upload_gone(call, "an upload id of another bucket")
        return session

    def span(self, number: int) -> tuple[int, int]:
        start = (number - 1) * self.part_bytes
        return start, min(start + self.part_bytes, self.size_bytes)

    @property
    def last(self) -> int:
        return -(-self.size_bytes // self.part_bytes)


class GcsParts(HttpParts):
    """Resumable uploads of Google Cloud Storage.

    Args:
        store: the store.
        site: its bucket.
        access: how it is reached.
        timeouts: limits of one request.
        now: the wall clock, timezone-aware.
    """

    limits = PartLimits(
        smallest_bytes=_GRANULE_BYTES,
        largest_bytes=1024 * _MIB,
        most_parts=None,
        in_order=True,
        multiple_bytes=_GRANULE_BYTES,
    )

    def __init__(
        self,
        store: ObstoreStore,
        site: Site,
        access: StoreAccess,
        timeouts: Timeouts,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        base_url = access.endpoint or access.options.get("base_url") or _SERVICE
        super().__init__(store, base_url, timeouts)
        self._bucket = site.bucket
        self._now = now
        self._base_path = urlsplit(base_url).path.rstrip("/")
        self._start = f"{self._base_path}/upload/storage/v1/b/{quote(site.bucket, safe='')}/o"
        self._authorization = _authorization(access, store.name)
        self._lock = threading.Lock()
        self._held: dict[str, bytes] = {}

    def begin(
        self,
        key: str,
        *,
        size_bytes: int,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
        mode: PutMode = OVERWRITE,
        part_bytes: int | None = None,
    ) -> Upload:
        call = self._call("begin", key, writes=True)
        part_bytes = check_begin(size_bytes, mode, call, self.limits, part_bytes)
        asked = self._asked(call, Cloud.GCP, content_type, metadata, attributes)
        create = isinstance(mode, Create)
        query = {"uploadType": "resumable", "name": self._store.path_of(key)}
        if create:
            query["ifGenerationMatch"] = "0"
        resource: dict[str, Any] = {_FIELDS[name]: value for name, value in asked.headers().items()}
        if asked.metadata:
            resource["metadata"] = dict(asked.metadata)
        headers = {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Length": str(size_bytes)}
        target = f"{self._start}?{urlencode(query, quote_via=quote)}"
        answer = self._http.request(call, "POST", target, self._headers(headers), json.dumps(resource).encode())
        if answer.status == 412:
            raise ObjectExists("an object of this key is there already", where=call.where)
        location = urlsplit(answer.headers.get("location", ""))
        if answer.status not in (200, 201) or "upload_id=" not in location.query:
            raise self._refused(answer, call)
        began = microseconds(self._now())
        session = _Session(create, size_bytes, part_bytes, began, f"{location.path}?{location.query}")
        return Upload(key, session.text(), at_microseconds(began))

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        call = self._call("put_part", upload.key, writes=True)
        session = _Session.of(upload, self._start, call)
        size_bytes = check_part(number, data, checksums, self.limits)
        start, end = session.span(number)
        if end - start != size_bytes:
            raise ValueError(f"part {number} has {size_bytes} bytes; this upload was begun for {end - start}")
        part = UploadedPart(number, size_bytes, f"{start}-{end}", checksums.crc64nvme, checksums.crc32c)
        view, now_bytes = memoryview(data), size_bytes
        if number == session.last:  # all but its last granule, or what there is of one
            now_bytes = (size_bytes - 1) // _GRANULE_BYTES * _GRANULE_BYTES
        if now_bytes:
            answer = self._send(session, call, view[:now_bytes], start)
            if answer.status not in (200, 201, 308):
                raise self._refused(answer, call)
        if now_bytes < size_bytes:
            with self._lock:
                self._held[upload.upload_id] = bytes(view[now_bytes:])
        return part

    def parts(self, upload: Upload) -> list[UploadedPart]:
        call = self._call("parts", upload.key)
        session = _Session.of(upload, self._start, call)
        answer = self._status(session, call)
        received = session.size_bytes if answer.status in (200, 201) else _received(answer)
        found = []
        for number in range(1, session.last + 1):
            start, end = session.span(number)
            if end > received:
                break
            found.append(UploadedPart(number, end - start, f"{start}-{end}"))
        return found

    def complete(
        self,
        upload: Upload,
        parts: Sequence[UploadedPart],
        *,
        size_bytes: int,
        checksums: Checksums,
        mode: PutMode = OVERWRITE,
    ) -> ObjectVersion:
        call = self._call("complete", upload.key, writes=True)
        check_mode(mode, call)
        session = _Session.of(upload, self._start, call)
        ordered = check_whole(parts, size_bytes, checksums)
        if session.create != isinstance(mode, Create) or len(ordered) != session.last:
            raise ValueError(f"this upload was begun as {session.text().partition(':')[0]} of {session.last} parts")
        answer = self._finish(upload, session, call, checksums)
        if answer.status == 412 or _over(answer):
            refusal = ObjectExists("an object of this key is there already") if answer.status == 412 else None
            version = self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode, refusal=refusal)
        elif answer.status in (200, 201):
            generation = self._generation(upload, answer, checksums, call)
            there = self._version_there(upload.key)
            if there is not None and there.version in (None, generation):
                version = there
            else:  # removed or replaced since
                version = self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode)
        elif answer.status == 400 and checksums.crc32c is not None and _is_about_checksum(answer):
            raise corrupted(call, "HTTP 400")
        else:
            raise self._refused(answer, call)
        self.abort(upload)
        return version

    def abort(self, upload: Upload) -> None:
        call = self._call("abort", upload.key, writes=True)
        with self._lock:
            self._held.pop(upload.upload_id, None)
        session = _Session.of(upload, self._start, call)
        answer = self._http.request(call, "DELETE", session.target, self._headers({"Content-Length": "0"}))
        if answer.status >= 300 and not _over(answer):
            raise self._refused(answer, call)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """None: Google lists no resumable uploads. One that nobody continues ends by itself after a week."""
        del prefix
        return iter(())

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        answer = self._head(self._call("stored_checksums", key), key, version, {})
        crc32c = _hashes(answer.headers.get("x-goog-hash", "")).get("crc32c")
        size = answer.headers.get("x-goog-stored-content-length") or answer.headers.get("content-length", "")
        found = from_google_text(crc32c) if crc32c else None
        return None if found is None or not size.isdecimal() else Checksums(None, found, int(size))

    # -- requests --------------------------------------------------------------------------------------------------

    def _listed(self, call: Call, wanted: str, after: str | None, token: str | None) -> Listed:
        # The XML API: the JSON API's ETags are others than those that reads are pinned by.
        query = urlencode(s3_query(wanted, after, token), quote_via=quote)
        target = f"{self._base_path}/{quote(self._bucket)}?{query}"
        answer = self._http.request(call, "GET", target, self._headers({}))
        if answer.status != 200:
            raise self._refused(answer, call)
        return s3_listed(answer.xml(), call)

    def _send(
        self,
        session: _Session,
        call: Call,
        data: memoryview,
        start: int,
        *,
        total: str = "*",
        headers: Mapping[str, str] | None = None,
        work_bytes: int = 0,
    ) -> Answer:
        """The bytes from ``start``, and again from where the store stopped taking them; the last answer."""
        end = position = start
        end += data.nbytes
        for _ in range(_MOST_CONTINUATIONS):
            said = {"Content-Range": f"bytes {position}-{end - 1}/{total}", **(headers or {})}
            rest = data[position - start :]
            answer = self._http.request(call, "PUT", session.target, self._headers(said), rest, work_bytes=work_bytes)
            received = _received(answer) if answer.status == 308 else end
            if received >= end:
                return answer
            if received < start:
                raise ObjectStoreError(
                    "parts of this backend are put in order",
                    where=call.where,
                    expected=f"the bytes from {received} on",
                    found=f"those from {start} on",
                )
            position = received
        raise StoreUnavailable("the store takes no more bytes", where=call.where, found=f"{position} of {end}")

    def _finish(self, upload: Upload, session: _Session, call: Call, checksums: Checksums) -> Answer:
        """Send the last part with the total; when it is not in this process's hands, ask how the upload stands."""
        with self._lock:
            held = self._held.get(upload.upload_id)
        if held is None:
            answer = self._status(session, call)
            if answer.status == 308:
                raise upload_gone(call, f"{_received(answer)} of {session.size_bytes} bytes, without the last part")
            return answer
        return self._send(
            session,
            call,
            memoryview(held),
            session.size_bytes - len(held),
            total=str(session.size_bytes),
            headers={} if checksums.crc32c is None else {"X-Goog-Hash": f"crc32c={google_text(checksums.crc32c)}"},
            work_bytes=session.size_bytes,
        )

    def _status(self, session: _Session, call: Call) -> Answer:
        answer = self._http.request(call, "PUT", session.target, self._headers({"Content-Range": "bytes */*"}))
        if answer.status in (200, 201, 308) or (_over(answer) and call.verb == "complete"):
            return answer
        raise self._refused(answer, call)

    def _generation(self, upload: Upload, answer: Answer, checksums: Checksums, call: Call) -> str:
        try:
            resource = json.loads(answer.body)
            generation, stored = str(resource["generation"]), from_google_text(str(resource.get("crc32c", "")))
        except (ValueError, KeyError, TypeError):
            raise StoreUnavailable(
                "the answer is not one of Google Cloud Storage", where=call.where, outcome_unknown=True
            ) from None
        if stored is not None and checksums.crc32c is not None and stored != checksums.crc32c:
            self._remove(upload.key, generation, call)
            raise corrupted(call, f"CRC-32C {stored:#x}, expected {checksums.crc32c:#x}")
        return generation

    def _version_there(self, key: str) -> ObjectVersion | None:
        try:
            return self._store.head(key).version
        except ObjectNotFound:
            return None

    def _remove(self, key: str, generation: str, call: Call) -> None:
        bucket, name = quote(self._bucket, safe=""), quote(self._store.path_of(key), safe="")
        target = f"{self._base_path}/storage/v1/b/{bucket}/o/{name}?ifGenerationMatch={generation}"
        self._http.request(call, "DELETE", target, self._headers({}))

    def _reading(self, method: str, key: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        del method
        path = f"{self._base_path}/{quote(self._bucket)}/{quote(self._store.path_of(key), safe='/~')}"
        # Otherwise Google would unpack what is stored with `Content-Encoding: gzip`.
        return path, self._headers({"Accept-Encoding": "gzip", **headers})

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {"Host": self._http.host_header, "User-Agent": "holdfast", **self._authorization(), **headers}

    def _refused(self, answer: Answer, call: Call, code: str | None = None) -> Exception:
        if _over(answer) and call.verb in ("put_part", "parts", "complete"):
            return upload_gone(call, f"HTTP {answer.status}")
        return translate_answer(answer.status if answer.status >= 300 else 502, code, call, answer.body)


def _over(answer: Answer) -> bool:
    """The session is not there: finished long ago, cancelled (499) or expired (410)."""
    return answer.status in (404, 410, 499)


def _received(answer: Answer) -> int:
    """How many bytes the store has, by the ``Range`` of a 308; without it none."""
    text = answer.headers.get("range", "")
    end = text.rpartition("-")[2]
    return int(end) + 1 if text.startswith("bytes=0-") and end.isdecimal() else 0


def _is_about_checksum(answer: Answer) -> bool:
    text = answer.body[:4096].decode(errors="replace").lower()
    return any(word in text for word in ("crc32c", "hash", "checksum"))


def _hashes(text: str) -> dict[str, str]:
    pairs = (item.strip().partition("=") for item in text.split(","))
    return {name: value for name, _, value in pairs if value}


def _authorization(access: StoreAccess, name: str) -> Callable[[], dict[str, str]]:
    if access.anonymous:
        return dict
    kept = KeptCredentials(access.credentials or _google_login(access.options), name)
    return lambda: {"Authorization": f"Bearer {kept.values()['token']}"}


def _google_login(options: Mapping[str, str]) -> Callable[[], Credentials]:
    """A service account's key, or what the environment has, through Google's own library."""
    made: list[Any] = []

    def ask() -> Credentials:
        from google.auth.transport.requests import Request

        if not made:
            made.append(_google_credentials(options))
        made[0].refresh(Request())
        expiry = made[0].expiry
        return Credentials({"token": made[0].token}, expiry.replace(tzinfo=UTC) if expiry else None)

    return ask


def _google_credentials(options: Mapping[str, str]) -> Any:
    import google.auth
    from google.oauth2 import service_account

    account: Any = service_account.Credentials
    named = {name.removeprefix("google_"): value for name, value in options.items()}
    if text := named.get("service_account_key"):
        return account.from_service_account_info(json.loads(text), scopes=[_SCOPE])
    if path := named.get("service_account") or named.get("service_account_path"):
        return account.from_service_account_file(path, scopes=[_SCOPE])
    return google.auth.default(scopes=[_SCOPE])[0]
