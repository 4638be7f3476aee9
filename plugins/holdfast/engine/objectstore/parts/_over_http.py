"""What the clouds' parts share: pinned reads over the same pooled connections as the writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.errors import PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.parts._base import StoreParts
from holdfast.engine.objectstore.parts._http import Answer, HttpPool, children, texts
from holdfast.engine.objectstore.parts._listed import Listed
from holdfast.engine.objectstore.timeouts import Timeouts

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore

_CLASS_HEADERS = ("x-amz-storage-class", "x-goog-storage-class", "x-ms-access-tier")


class HttpParts(StoreParts):
    """Parts of a service spoken to over HTTP.

    Args:
        store: the store.
        base_url: scheme, host and port of the service.
        timeouts: limits of one request.
    """

    def __init__(self, store: ObstoreStore, base_url: str, timeouts: Timeouts) -> None:
        super().__init__(store)
        self._http = HttpPool(base_url, timeouts, store.name)

    @abstractmethod
    def _reading(self, method: str, key: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Target and headers of an authorised GET or HEAD of the object."""

    @abstractmethod
    def _refused(self, answer: Answer, call: Call, code: str | None = None) -> Exception:
        """The error an answer means."""

    @abstractmethod
    def _listed(self, call: Call, wanted: str, after: str | None, token: str | None) -> Listed:
        """One page of a listing, keys as in the bucket; some services cannot begin after a key."""

    def listed(self, wanted: str, after: str | None) -> Iterator[list[ObjectInfo]]:
        """Pages of the objects whose keys begin with ``wanted``, after one key; see `exact`.

        Args:
            wanted, after: as in the bucket, with the store's prefix.

        Raises:
            StoreUnavailable: a page did not come.
        """
        call = self._call("list", wanted or None)
        token: str | None = None
        while True:
            page = self._listed(call, wanted, after, token)
            yield [info for info in page.objects if after is None or info.key > after]
            if page.next is None:
                return
            if page.next == token:
                raise StoreUnavailable("the listing does not go on", where=call.where, found="the same page again")
            token = page.next

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        if if_match.e_tag is None or not buffer.nbytes:
            super().read_into(key, start, buffer, if_match=if_match)
            return
        call = self._call("read_into", key)
        wanted = {"Range": f"bytes={start}-{start + buffer.nbytes - 1}", "If-Match": if_match.e_tag}
        target, headers = self._reading("GET", key, wanted)
        answer = self._http.read_into(call, target, headers, buffer)
        if answer.status == 416:
            raise StoreUnavailable("the object ends before the range", where=call.where, found="HTTP 416")
        if answer.status == 404:
            self._store.missed(key)
        if answer.status not in (200, 206):
            raise self._refused(answer, call)
        self._check_version(answer, if_match, call)

    def placed(self, key: str, version: ObjectVersion) -> tuple[str | None, Mapping[str, str]]:
        """An object's storage class and tags, which no GET of obstore's brings; see `attribute_reading`."""
        answer = self._head(self._call("placed", key), key, version, {})
        return self._storage_class(answer), self._tags(key, answer)

    def _storage_class(self, answer: Answer) -> str | None:
        """From the headers of a HEAD."""
        return next((answer.headers[name] for name in _CLASS_HEADERS if name in answer.headers), None)

    def _tags(self, key: str, answer: Answer) -> Mapping[str, str]:
        """The object's tags, given its HEAD."""
        del key, answer
        return {}

    def _head(self, call: Call, key: str, version: ObjectVersion, headers: Mapping[str, str]) -> Answer:
        """HEAD of exactly this version."""
        pinned = {"If-Match": version.e_tag} if version.e_tag is not None else {}
        target, all_headers = self._reading("HEAD", key, {**headers, **pinned})
        answer = self._http.request(call, "HEAD", target, all_headers)
        if answer.status != 200:
            raise self._refused(answer, call)
        self._check_version(answer, version, call)
        return answer

    def _check_version(self, answer: Answer, version: ObjectVersion, call: Call) -> None:
        """Some servers do not know If-Match."""
        found = answer.headers.get("etag")
        if version.e_tag is not None and found is not None and found != version.e_tag:
            raise PreconditionFailed(
                "the object is not in the version named", where=call.where, expected=version.e_tag, found=found
            )


def tags_in(answer: Answer) -> dict[str, str]:
    """The tags in an answer of S3 or Azure, which write them alike."""
    root = answer.xml()
    sets = [] if root is None else children(root, "TagSet")
    found = [texts(tag) for tag_set in sets for tag in children(tag_set, "Tag")]
    return {tag["Key"]: tag.get("Value", "") for tag in found if "Key" in tag}
