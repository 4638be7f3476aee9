"""Parts on Amazon S3 and what speaks its protocol: UploadPart, signed here, sent from the caller's buffer.

Part bodies are not hashed for the signature (``UNSIGNED-PAYLOAD``): their CRC-64/NVME stands in a signed header and S3
checks it. No boto3 client is made: it costs memory and copies every body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._translate import Call, translate_answer
from holdfast.engine.objectstore.access import Credentials, StoreAccess
from holdfast.engine.objectstore.attributes import HEADERS
from holdfast.engine.objectstore.checksums import Checksums, from_google_text, from_s3_text, s3_text
from holdfast.engine.objectstore.encryption import encryption_headers
from holdfast.engine.objectstore.errors import ObjectExists, StoreUnavailable, UploadGone
from holdfast.engine.objectstore.interface import OVERWRITE, Create, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts._base import (
    check_begin,
    check_mode,
    check_part,
    check_whole,
    corrupted,
    upload_gone,
)
from holdfast.engine.objectstore.parts._credentials import KeptCredentials
from holdfast.engine.objectstore.parts._http import Answer, Exchange, children, texts
from holdfast.engine.objectstore.parts._listed import Listed, s3_listed, s3_query
from holdfast.engine.objectstore.parts._over_http import HttpParts, tags_in
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, Upload, UploadedPart
from holdfast.engine.objectstore.parts.sigv4 import Signer
from holdfast.engine.objectstore.timeouts import Timeouts

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore
    from holdfast.engine.objectstore.attributes import Attributes

_MIB = 1024 * 1024
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
#: Codes of an answer to bytes that arrived as others.
WRONG_BYTES = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
_NO_UPLOAD = {"NoSuchUpload"}
#: Keys that stand in a URL as they are.
_UNRESERVED = re.compile(r"[A-Za-z0-9_./~-]+", re.ASCII)
_PLACED = {"Storage-Class": "x-amz-storage-class"}
_PLAIN = frozenset(HEADERS.values()) - _PLACED.keys()
#: Other parts than those named: somebody aborted and began again, or put other parts.
_OTHER_PARTS = {"InvalidPart", "InvalidPartOrder"}


class S3Parts(HttpParts):
    """Multipart uploads of S3.

    Args:
        store: the store.
        site: its bucket, region and key.
        access: how it is reached.
        timeouts: limits of one request.
        now: the wall clock in UTC; it dates signatures.
    """

    limits = PartLimits(smallest_bytes=5 * _MIB, largest_bytes=5 * 1024 * _MIB, most_parts=10_000, in_order=False)

    def __init__(
        self,
        store: ObstoreStore,
        site: Site,
        access: StoreAccess,
        timeouts: Timeouts,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        base_url, self._base_path = _endpoint(site, access)
        super().__init__(store, base_url, timeouts)
        self._site = site
        self._login = _Login(store.name, site, access, now)
        self._now = now

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
        check_begin(size_bytes, mode, call, self.limits, part_bytes)
        asked = self._asked(call, Cloud.AWS, content_type, metadata, attributes)
        self._refuse_what_is_there(key, mode, call)
        headers = {
            "x-amz-checksum-algorithm": "CRC64NVME",
            "x-amz-checksum-type": "FULL_OBJECT",
            **encryption_headers(self._site),
            **_attribute_headers(asked),
        }
        answer = self._ask(call, "POST", key, {"uploads": ""}, headers)
        upload_id = texts(_document(answer, call)).get("UploadId")
        if not upload_id:
            raise _not_s3(call)
        return Upload(key, upload_id, self._now())

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        call = self._call("put_part", upload.key, writes=True)
        size_bytes = check_part(number, data, checksums, self.limits)
        said = None if checksums.crc64nvme is None else s3_text(checksums.crc64nvme)
        headers = {"x-amz-checksum-crc64nvme": said} if said is not None else {}
        query = {"partNumber": str(number), "uploadId": upload.upload_id}
        answer = self._ask(call, "PUT", upload.key, query, headers, data, unsigned=True)
        received = answer.headers.get("x-amz-checksum-crc64nvme")
        if said is not None and received is not None and received != said:
            raise corrupted(call, f"part {number}: CRC-64/NVME {received}, expected {said}")
        tag = answer.headers.get("etag")
        if not tag:
            raise _not_s3(call)
        return UploadedPart(number, size_bytes, tag, checksums.crc64nvme, checksums.crc32c)

    def parts(self, upload: Upload) -> list[UploadedPart]:
        call = self._call("parts", upload.key)
        found: list[UploadedPart] = []
        marker: str | None = "0"
        while marker is not None:
            query = {"uploadId": upload.upload_id, "max-parts": "1000", "part-number-marker": marker}
            answer = self._ask(call, "GET", upload.key, query)
            root = _document(answer, call)
            for element in children(root, "Part"):
                part = texts(element)
                crc = part.get("ChecksumCRC64NVME")
                found.append(
                    UploadedPart(
                        int(part["PartNumber"]), int(part["Size"]), part["ETag"], from_s3_text(crc) if crc else None
                    )
                )
            page = texts(root)
            marker = page.get("NextPartNumberMarker") if page.get("IsTruncated") == "true" else None
        return sorted(found, key=lambda part: part.number)

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
        ordered = check_whole(parts, size_bytes, checksums)
        headers = {"Content-Type": "application/xml", "x-amz-mp-object-size": str(size_bytes)}
        if checksums.crc64nvme is not None:
            headers["x-amz-checksum-crc64nvme"] = s3_text(checksums.crc64nvme)
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        if isinstance(mode, Create):
            headers["If-None-Match"] = "*"
        answer = self._exchange(
            call, "POST", upload.key, {"uploadId": upload.upload_id}, headers, _completion(ordered), size_bytes
        )
        code = _code(answer)
        if answer.status == 200 and code is None:
            return self._completed(answer, call, checksums)
        if answer.status == 412 or code in _NO_UPLOAD or (answer.status >= 500 and self._is_gone(upload)):
            refusal = ObjectExists("an object of this key is there already") if answer.status == 412 else None
            version = self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode, refusal=refusal)
            self.abort(upload)
            return version
        if code in _OTHER_PARTS:
            raise upload_gone(call, code)
        raise self._refused(answer, call, code)

    def _is_gone(self, upload: Upload) -> bool:
        """Whether a completion that was answered with a failure has happened all the same, or can no more."""
        try:
            self.parts(upload)
        except UploadGone:
            return True
        return False

    def abort(self, upload: Upload) -> None:
        call = self._call("abort", upload.key, writes=True)
        answer = self._exchange(call, "DELETE", upload.key, {"uploadId": upload.upload_id}, {})
        code = _code(answer)
        if answer.status >= 300 and code not in _NO_UPLOAD:
            raise self._refused(answer, call, code)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        call = self._call("uploads", prefix or None)
        markers: dict[str, str] | None = {}
        while markers is not None:
            query = {"uploads": "", "prefix": self._store.prefix + prefix, "encoding-type": "url", **markers}
            root = _document(self._ask(call, "GET", None, query), call)
            page = texts(root)
            plain = unquote_plus if page.get("EncodingType") == "url" else str
            for element in children(root, "Upload"):
                upload = texts(element)
                path = plain(upload["Key"])
                if path.startswith(self._store.prefix + prefix):
                    yield Upload(path[len(self._store.prefix) :], upload["UploadId"], _time(upload["Initiated"]))
            markers = None
            if page.get("IsTruncated") == "true":
                markers = {
                    "key-marker": plain(page.get("NextKeyMarker", "")),
                    "upload-id-marker": page.get("NextUploadIdMarker", ""),
                }

    def stored_checksums(self, key: str, version: ObjectVersion) -> Checksums | None:
        answer = self._head(self._call("stored_checksums", key), key, version, {"x-amz-checksum-mode": "ENABLED"})
        # Of the parts' checksums (COMPOSITE) nothing follows for the whole; their text ends with the number of parts.
        crc64nvme = from_s3_text(answer.headers.get("x-amz-checksum-crc64nvme", ""))
        crc32c = from_google_text(answer.headers.get("x-amz-checksum-crc32c", ""))
        size = answer.headers.get("content-length", "")
        if (crc64nvme is None and crc32c is None) or not size.isdecimal():
            return None
        return Checksums(crc64nvme, crc32c, int(size))

    def _storage_class(self, answer: Answer) -> str | None:
        return super()._storage_class(answer) or "STANDARD"  # the one S3 does not name

    def _tags(self, key: str, answer: Answer) -> Mapping[str, str]:
        del answer
        return tags_in(self._ask(self._call("tags", key), "GET", key, {"tagging": ""}))

    # -- requests --------------------------------------------------------------------------------------------------

    def _listed(self, call: Call, wanted: str, after: str | None, token: str | None) -> Listed:
        return s3_listed(self._ask(call, "GET", None, s3_query(wanted, after, token)).xml(), call)

    def _completed(self, answer: Answer, call: Call, checksums: Checksums) -> ObjectVersion:
        said = texts(_document(answer, call))
        stored = from_s3_text(said.get("ChecksumCRC64NVME", ""))
        if stored is not None and checksums.crc64nvme is not None and stored != checksums.crc64nvme:
            raise corrupted(call, f"CRC-64/NVME {stored:#x}, expected {checksums.crc64nvme:#x}")
        e_tag = said.get("ETag")
        if not e_tag:
            raise _not_s3(call)
        version = answer.headers.get("x-amz-version-id")
        quoted = e_tag if e_tag.startswith('"') else f'"{e_tag}"'
        return ObjectVersion(quoted, None if version in (None, "", "null") else version)

    def _ask(
        self,
        call: Call,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: PartData = b"",
        *,
        unsigned: bool = False,
    ) -> Answer:
        """One request; raises what is not a success."""
        answer = self._exchange(call, method, key, query, headers or {}, body, unsigned=unsigned)
        code = _code(answer)
        if answer.status >= 300 or code is not None:
            raise self._refused(answer, call, code)
        return answer

    def _exchange(
        self,
        call: Call,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: PartData = b"",
        work_bytes: int = 0,
        *,
        unsigned: bool = False,
    ) -> Answer:
        target, signed = self._request(method, key, query, headers, body, unsigned=unsigned)
        return self._http.request(call, method, target, signed, body, work_bytes=work_bytes)

    def _reading(self, method: str, key: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        return self._request(method, key, {}, headers, b"", unsigned=False)

    # -- for small objects; see `s3_whole` -------------------------------------------------------------------------

    def begin_get(
        self, call: Call, path: str, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Exchange:
        """Send a GET whose body may have so many bytes. ``path`` is in the bucket."""
        target, signed = self._signed("GET", path, query, headers, b"", unsigned=False)
        return self._http.begin_get(call, target, signed, most_bytes=most_bytes)

    def begin_put(self, call: Call, path: str, headers: Mapping[str, str], data: bytes, *, unsigned: bool) -> Exchange:
        """Send a PUT. ``path`` is in the bucket."""
        target, signed = self._signed("PUT", path, {}, headers, data, unsigned=unsigned)
        return self._http.begin_put(call, target, signed, data)

    def code_of(self, answer: Answer) -> str | None:
        """The error code in an answer's body."""
        return _code(answer)

    def _request(
        self,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: PartData,
        *,
        unsigned: bool,
    ) -> tuple[str, dict[str, str]]:
        path = None if key is None else self._store.path_of(key)
        return self._signed(method, path, query, headers, body, unsigned=unsigned)

    def _signed(
        self,
        method: str,
        path: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: PartData,
        *,
        unsigned: bool,
    ) -> tuple[str, dict[str, str]]:
        """Target and headers; ``path`` is in the bucket, ``None``: the bucket itself."""
        if path is None:
            place = self._base_path or "/"
        else:
            place = f"{self._base_path}/{path if _UNRESERVED.fullmatch(path) else quote(path, safe='/~')}"
        said = "&".join([f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items()])
        plain = {"Host": self._http.host_header, "User-Agent": "holdfast", **headers}
        signed = self._login.signed(method, place, said, plain, None if unsigned else body)
        return (f"{place}?{said}" if said else place), signed

    def _refused(self, answer: Answer, call: Call, code: str | None = None) -> Exception:
        code = code or _code(answer)
        if code in _NO_UPLOAD:
            return upload_gone(call, code)
        if code in WRONG_BYTES:
            return corrupted(call, code)
        # S3 tells some failures of `complete` in the body of an answer that began as a success.
        status = 503 if answer.status == 200 else answer.status
        return translate_answer(status, code, call, answer.body)


class _Login:
    """Signs requests with credentials that are renewed; anonymous ones are not signed."""

    def __init__(self, name: str, site: Site, access: StoreAccess, now: Callable[[], datetime]) -> None:
        self._kept = None if access.anonymous else KeptCredentials(access.credentials or _environment_credentials, name)
        self._region = _option(access, "region") or site.region
        self._now = now
        self._made: tuple[Mapping[str, str | None], Signer] | None = None

    def signed(
        self, method: str, path: str, query: str, headers: dict[str, str], body: PartData | None
    ) -> dict[str, str]:
        if self._kept is None:
            return headers
        values, made = self._kept.values(), self._made
        if made is None or made[0] is not values:
            key, secret = values["access_key_id"] or "", values["secret_access_key"] or ""
            self._made = made = (values, Signer(key, secret, values.get("token"), self._region))
        return made[1].signed(method, path, query, headers, body, self._now())


def _environment_credentials() -> Credentials:
    """What the environment has, as AWS's own tools look for it: variables, files, roles of task, pod and instance."""
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        raise LookupError("no credentials in the environment")
    frozen = found.get_frozen_credentials()
    expires_at = getattr(found, "_expiry_time", None)
    return Credentials(
        {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token}, expires_at
    )


def _option(access: StoreAccess, name: str) -> str | None:
    """An option of obstore's, which takes each name with and without the cloud's."""
    return access.options.get(name) or access.options.get(f"aws_{name}")


def _endpoint(site: Site, access: StoreAccess) -> tuple[str, str]:
    """Base URL and the path of the bucket in it, as obstore's client forms them."""
    virtual = (_option(access, "virtual_hosted_style_request") or "").lower() in ("true", "1", "yes")
    endpoint = access.endpoint or _option(access, "endpoint") or _option(access, "endpoint_url")
    if endpoint:
        path = urlsplit(endpoint).path.rstrip("/")
        return endpoint, path if virtual else f"{path}/{quote(site.bucket)}"
    region = _option(access, "region") or site.region
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if virtual:
        return f"https://{site.bucket}.s3.{region}.{suffix}", ""
    return f"https://s3.{region}.{suffix}", f"/{quote(site.bucket)}"


def _attribute_headers(asked: Attributes) -> dict[str, str]:
    return placed_headers({**asked.headers(), **asked.metadata}, asked.tags)


def placed_headers(said: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The headers that say an object's attributes.

    Args:
        said: attributes by their HTTP names, and user metadata.
        tags: of the object.
    """
    headers = {
        name if name in _PLAIN else _PLACED.get(name) or f"x-amz-meta-{name}": value for name, value in said.items()
    }
    if tags:
        headers["x-amz-tagging"] = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in tags.items()
        )
    return headers


def _completion(parts: Sequence[UploadedPart]) -> bytes:
    rows = []
    for part in parts:
        crc = "" if part.crc64nvme is None else f"<ChecksumCRC64NVME>{s3_text(part.crc64nvme)}</ChecksumCRC64NVME>"
        rows.append(f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.tag)}</ETag>{crc}</Part>")
    body = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{"".join(rows)}</CompleteMultipartUpload>'
    return body.encode()


def _code(answer: Answer) -> str | None:
    """The error code in an answer's body."""
    if not answer.body:
        return None
    root = answer.xml()
    if root is None or root.tag.rpartition("}")[2] != "Error":
        return None
    return texts(root).get("Code", "").strip() or "Error"


def _document(answer: Answer, call: Call) -> Element:
    root = answer.xml()
    if root is None:
        raise _not_s3(call)
    return root


def _not_s3(call: Call) -> StoreUnavailable:
    return StoreUnavailable("the answer is not one of S3", where=call.where, outcome_unknown=call.writes)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return at if at.tzinfo else at.replace(tzinfo=UTC)
