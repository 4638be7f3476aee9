"""Parts on Azure Blob Storage: staged blocks, and the list that makes them a blob.

Azure has no uploads, only blocks staged for a blob that may not be there yet. So an upload is a token all its blocks'
ids begin with; whatever the blob is to say of itself travels in the upload id, because it is told with the list.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit
from xml.etree.ElementTree import Element

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._translate import Call, translate_answer
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.checksums import Checksums, azure_text
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, StoreUnavailable
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
from holdfast.engine.objectstore.parts._http import Answer, children, texts
from holdfast.engine.objectstore.parts._listed import Listed, azure_listed, azure_query
from holdfast.engine.objectstore.parts._over_http import HttpParts, tags_in
from holdfast.engine.objectstore.parts.azure_login import API_VERSION, AzureLogin
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, Upload, UploadedPart
from holdfast.engine.objectstore.timeouts import Timeouts

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore
    from holdfast.engine.objectstore.attributes import Attributes

_MIB = 1024 * 1024
_HEADERS = {
    "Content-Type": "x-ms-blob-content-type",
    "Cache-Control": "x-ms-blob-cache-control",
    "Content-Disposition": "x-ms-blob-content-disposition",
    "Content-Encoding": "x-ms-blob-content-encoding",
    "Content-Language": "x-ms-blob-content-language",
    "Storage-Class": "x-ms-access-tier",
}
_WRONG_BYTES = {"Crc64Mismatch", "Md5Mismatch"}
_EXISTS = {"BlobAlreadyExists", "UnauthorizedBlobOverwrite"}
_TOKEN_LENGTH = 14 + 8


@dataclass(frozen=True, slots=True)
class _Blocks:
    """An upload id's content: the token its block ids begin with, and the headers of the blob to be."""

    token: str
    headers: Mapping[str, str]

    def text(self) -> str:
        said = base64.urlsafe_b64encode(json.dumps(dict(self.headers), separators=(",", ":")).encode()).decode()
        return f"{self.token}:{said}"

    @classmethod
    def of(cls, upload: Upload, call: Call) -> _Blocks:
        token, _, said = upload.upload_id.partition(":")
        try:
            headers = json.loads(base64.urlsafe_b64decode(said)) if said else {}
            if len(token) != _TOKEN_LENGTH:
                raise ValueError
            int(token, 16)
        except ValueError:
            raise upload_gone(call, "an upload id of another backend") from None
        return cls(token, headers)

    def block(self, number: int) -> str:
        """A block's id: all of a blob must be of one length."""
        return base64.b64encode(f"{self.token}-{number:05d}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Staged:
    """What Azure has of a blob: token, number and size of each block, and whether the blob itself is there."""

    committed: tuple[tuple[str, int, int], ...]
    uncommitted: tuple[tuple[str, int, int], ...]
    exists: bool


class AzureParts(HttpParts):
    """Staged blocks of Azure Blob Storage.

    Args:
        store: the store.
        site: its container.
        access: how it is reached.
        timeouts: limits of one request.
        now: the wall clock, timezone-aware.
    """

    limits = PartLimits(smallest_bytes=1, largest_bytes=4000 * _MIB, most_parts=50_000, in_order=False)

    def __init__(
        self,
        store: ObstoreStore,
        site: Site,
        access: StoreAccess,
        timeouts: Timeouts,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        account = access.options.get("account_name", "")
        base_url = access.endpoint or f"https://{account}.blob.core.windows.net"
        super().__init__(store, base_url, timeouts)
        self._container = f"{urlsplit(base_url).path.rstrip('/')}/{quote(site.bucket)}"
        self._now = now
        self._login = AzureLogin(access, account, store.name, now)
        self._immutable: bool | None = None

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
        asked = self._asked(call, Cloud.AZURE, content_type, metadata, attributes)
        self._store.path_of(key)
        self._refuse_what_is_there(key, mode, call)
        headers = {_HEADERS[name]: value for name, value in asked.headers().items()}
        headers |= {f"x-ms-meta-{name}": value for name, value in asked.metadata.items()}
        if asked.tags:
            headers["x-ms-tags"] = urlencode(dict(asked.tags), quote_via=quote)
        began = microseconds(self._now())
        blocks = _Blocks(f"{began:014x}{secrets.token_hex(4)}", headers)
        return Upload(key, blocks.text(), at_microseconds(began))

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        call = self._call("put_part", upload.key, writes=True)
        blocks = _Blocks.of(upload, call)
        size_bytes = check_part(number, data, checksums, self.limits)
        said = None if checksums.crc64nvme is None else azure_text(checksums.crc64nvme)
        headers = {} if said is None else {"x-ms-content-crc64": said}
        block = blocks.block(number)
        answer = self._ask(call, "PUT", upload.key, {"comp": "block", "blockid": block}, headers, data)
        if answer.status != 201:
            raise self._refused(answer, call)
        received = answer.headers.get("x-ms-content-crc64")
        if said is not None and received is not None and received != said:
            raise corrupted(call, f"part {number}: CRC-64 {received}, expected {said}")
        return UploadedPart(number, size_bytes, block, checksums.crc64nvme, checksums.crc32c)

    def parts(self, upload: Upload) -> list[UploadedPart]:
        call = self._call("parts", upload.key)
        blocks = _Blocks.of(upload, call)
        staged = self._staged(upload.key, call)
        if any(token == blocks.token for token, _, _ in staged.committed):
            raise upload_gone(call, "it is finished")
        # No blocks may be an upload just begun or one expired: either way nothing survived.
        mine = [(number, size) for token, number, size in staged.uncommitted if token == blocks.token]
        return [UploadedPart(number, size, blocks.block(number)) for number, size in sorted(mine)]

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
        blocks = _Blocks.of(upload, call)
        ordered = check_whole(parts, size_bytes, checksums)
        body = _block_list([blocks.block(part.number) for part in ordered])
        headers = {"Content-Type": "application/xml", **blocks.headers}
        if isinstance(mode, Create):
            headers["If-None-Match"] = "*"
        answer = self._ask(call, "PUT", upload.key, {"comp": "blocklist"}, headers, body, work_bytes=size_bytes)
        code = _code(answer)
        if answer.status == 201 and (e_tag := answer.headers.get("etag")):
            quoted = e_tag if e_tag.startswith('"') else f'"{e_tag}"'
            return ObjectVersion(quoted, answer.headers.get("x-ms-version-id"))
        exists = code in _EXISTS or answer.status == 412
        if not exists and code not in ("InvalidBlockList", "InvalidBlobOrBlock", "InvalidBlockId"):
            raise self._refused(answer, call)
        refusal = ObjectExists("an object of this key is there already") if exists else None
        version = self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode, refusal=refusal)
        self.abort(upload)
        return version

    def abort(self, upload: Upload) -> None:
        """Drop the blocks, where that is possible.

        Azure cannot drop blocks. It forgets those of a blob that is not there when an empty list of blocks makes it an
        empty blob, which is deleted at once. Left to expire within a week are blocks at a key that holds a blob, blocks
        another upload's stand beside, and all in a container that would not let the empty blob go.
        """
        call = self._call("abort", upload.key, writes=True)
        blocks = _Blocks.of(upload, call)
        staged = self._staged(upload.key, call)
        tokens = {token for token, _, _ in staged.uncommitted}
        if staged.exists or tokens != {blocks.token} or self._keeps_everything():
            return
        headers = {"Content-Type": "application/xml", "If-None-Match": "*"}
        answer = self._ask(call, "PUT", upload.key, {"comp": "blocklist"}, headers, _block_list([]))
        if answer.status in (409, 412):  # somebody's blob came first; the blocks went with it
            return
        if answer.status != 201:
            raise self._refused(answer, call)
        removed = self._ask(call, "DELETE", upload.key, {}, {"If-Match": answer.headers.get("etag", "*")})
        if removed.status not in (202, 404, 412):
            raise self._refused(removed, call)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Those whose key holds no blob yet. All blobs under the prefix are listed to find them."""
        call = self._call("uploads", prefix or None)
        marker: str | None = ""
        while marker is not None:
            query = {"restype": "container", "comp": "list", "include": "uncommittedblobs"}
            query |= {"prefix": self._store.prefix + prefix, **({"marker": marker} if marker else {})}
            answer = self._ask(call, "GET", None, query, {})
            if answer.status != 200:
                raise self._refused(answer, call)
            root = _document(answer, call)
            for key in _empty_blobs(root):
                yield from self._uploads_of(key[len(self._store.prefix) :], call)
            marker = texts(root).get("NextMarker") or None

    def _uploads_of(self, key: str, call: Call) -> Iterator[Upload]:
        staged = self._staged(key, call)
        if not staged.exists:
            for token in sorted({token for token, _, _ in staged.uncommitted if token}):
                yield Upload(key, token, at_microseconds(int(token[:14], 16)))

    # -- requests --------------------------------------------------------------------------------------------------

    def _listed(self, call: Call, wanted: str, after: str | None, token: str | None) -> Listed:
        del after
        answer = self._ask(call, "GET", None, azure_query(wanted, token), {})
        if answer.status != 200:
            raise self._refused(answer, call)
        return azure_listed(answer.xml(), call)

    def _same_bytes(self, upload: Upload, size_bytes: int, checksums: Checksums) -> ObjectVersion | None:
        """A blob out of this upload's blocks is ours: its list says so, nothing need be read."""
        call = self._call("complete", upload.key)
        try:
            before = self._store.head(upload.key)
            staged = self._staged(upload.key, call)
            after = self._store.head(upload.key)
        except ObjectNotFound:
            return None
        token = _Blocks.of(upload, call).token
        ours = bool(staged.committed) and all(one == token for one, _, _ in staged.committed)
        total = sum(size for _, _, size in staged.committed)
        if ours and total == size_bytes and before.version == after.version:
            return after.version
        return super()._same_bytes(upload, size_bytes, checksums)

    def _staged(self, key: str, call: Call) -> _Staged:
        answer = self._ask(call, "GET", key, {"comp": "blocklist", "blocklisttype": "all"}, {})
        if answer.status == 404 and _code(answer) != "ContainerNotFound":
            return _Staged((), (), exists=False)
        if answer.status != 200:
            raise self._refused(answer, call)
        root = _document(answer, call)
        lists = [_blocks(root, name) for name in ("CommittedBlocks", "UncommittedBlocks")]
        # An empty blob, or one put whole, has no committed blocks either.
        return _Staged(lists[0], lists[1], exists=bool(lists[0]) or self._is_there(key))

    def _tags(self, key: str, answer: Answer) -> Mapping[str, str]:
        if answer.headers.get("x-ms-tag-count", "0") == "0":
            return {}
        call = self._call("tags", key)
        found = self._ask(call, "GET", key, {"comp": "tags"}, {})
        if found.status != 200:
            raise self._refused(found, call)
        return tags_in(found)

    def _keeps_everything(self) -> bool:
        """Whether the container lets nothing be deleted (an immutability policy or a legal hold); asked once."""
        if self._immutable is None:
            call = self._call("head", None)
            answer = self._ask(call, "HEAD", None, {"restype": "container"}, {})
            kinds = ("has-immutability-policy", "has-legal-hold", "immutable-storage-with-versioning-enabled")
            # Who may not ask is not told: then nothing is made that could not be removed.
            self._immutable = answer.status != 200 or any(
                answer.headers.get(f"x-ms-{kind}") == "true" for kind in kinds
            )
        return self._immutable

    def _reading(self, method: str, key: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        del method
        return self._target(key, {}, headers)

    def _ask(
        self,
        call: Call,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: PartData = b"",
        *,
        work_bytes: int = 0,
    ) -> Answer:
        target, all_headers = self._target(key, query, headers)
        return self._http.request(call, method, target, all_headers, body, work_bytes=work_bytes)

    def _target(
        self, key: str | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        path = self._container + ("" if key is None else f"/{quote(self._store.path_of(key), safe='/~')}")
        said, authorised = self._login.authorised(urlencode(query, quote_via=quote), headers)
        fixed = {"Host": self._http.host_header, "User-Agent": "holdfast", "x-ms-version": API_VERSION}
        return (f"{path}?{said}" if said else path), {**fixed, **authorised}

    def _refused(self, answer: Answer, call: Call, code: str | None = None) -> Exception:
        code = code or _code(answer)
        if code in _WRONG_BYTES:
            return corrupted(call, code)
        return translate_answer(answer.status if answer.status >= 300 else 502, code, call)


def _block_list(ids: Sequence[str]) -> bytes:
    listed = "".join(f"<Latest>{block}</Latest>" for block in ids)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()


def _code(answer: Answer) -> str | None:
    """The error code, which Azure tells in a header too."""
    return answer.headers.get("x-ms-error-code")


def _document(answer: Answer, call: Call) -> Element:
    root = answer.xml()
    if root is None:
        raise StoreUnavailable("the answer is not one of Azure Blob Storage", where=call.where)
    return root


def _empty_blobs(root: Element) -> Iterator[str]:
    """The names of the listed blobs without a byte, which those that are only staged are."""
    for blobs in children(root, "Blobs"):
        for blob in children(blobs, "Blob"):
            properties = [texts(found) for found in children(blob, "Properties")]
            if not properties or properties[0].get("Content-Length", "0") in ("0", ""):
                yield texts(blob)["Name"]


def _blocks(root: Element, name: str) -> tuple[tuple[str, int, int], ...]:
    """Token, number and size of the blocks in a list; a block of somebody else's making has no token."""
    found = []
    for blocks in children(root, name):
        for block in children(blocks, "Block"):
            said = texts(block)
            token, number = _parsed(said.get("Name", ""))
            found.append((token, number, int(said.get("Size", "0"))))
    return tuple(found)


def _parsed(block_id: str) -> tuple[str, int]:
    try:
        token, _, number = base64.b64decode(block_id, validate=True).decode("ascii").partition("-")
        if len(token) != _TOKEN_LENGTH:
            return "", 0
        int(token, 16)
        return token, int(number)
    except ValueError:
        return "", 0
