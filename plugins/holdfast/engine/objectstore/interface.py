"""The one interface to S3, GCS, Blob, a local folder and memory. Everything else is a decorator on it.

Keys are relative to the site's bucket and prefix, use ``/`` and never begin with one. All calls are synchronous
and may be made from many threads at once. Every implementation has explicit timeouts and raises only the errors
of `holdfast.engine.objectstore.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """What names one state of an object: its ETag, and its version or generation where the store has one."""

    e_tag: str | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing or HEAD shows it."""

    key: str
    size_bytes: int
    modified_at: datetime
    version: ObjectVersion


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` (inclusive) to ``end`` (exclusive)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Put whatever is there. Only for objects nobody decides by."""


@dataclass(frozen=True, slots=True)
class Create:
    """Put only where nothing is: the one atomic primitive all clouds share."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Put only over exactly this version (compare-and-swap)."""

    version: ObjectVersion


PutMode = Overwrite | Create | IfMatch
OVERWRITE = Overwrite()
CREATE = Create()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as the contract suite measured it. ``None`` is not measured: unknown is not yes."""

    backend: str
    create_only: bool | None = None
    compare_and_swap: bool | None = None
    pinned_reads: bool | None = None
    ranged_reads: bool | None = None
    streamed_puts: bool | None = None
    create_only_streamed: bool | None = None
    metadata: bool | None = None
    server_side_copy: bool | None = None
    versions: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ObjectReader:
    """An open read: the object's info as of this read, its bytes in chunks, and what it says of itself."""

    info: ObjectInfo
    chunks: Iterator[bytes] = field(repr=False)
    attributes: Attributes = NO_ATTRIBUTES
    #: All its bytes are in memory already: nothing more is asked of the store.
    is_whole: bool = False

    @property
    def content_type(self) -> str | None:
        """The attribute of this name."""
        return self.attributes.content_type

    @property
    def metadata(self) -> Mapping[str, str]:
        """The user metadata."""
        return self.attributes.metadata

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks


@runtime_checkable
class ObjectStore(Protocol):
    """One bucket (and prefix) of one site."""

    @property
    def name(self) -> str:
        """Who this is in messages, e.g. ``aws-eu-west-1 (s3://bucket/prefix)``."""

    def capabilities(self) -> Capabilities:
        """What this backend can do."""

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix`` (a plain string: ``a/b`` matches ``a/bc``), in key order."""

    def head(self, key: str) -> ObjectInfo:
        """The object's info. Raises ObjectNotFound."""

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        """The whole object or a range of it in memory. A range is cut at the object's end, as a slice is.

        Raises ObjectNotFound, PreconditionFailed (it is another version).
        """

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        """A streamed read in chunks of about ``chunk_bytes``, pinned to one version from the first byte to the last.

        ``size_bytes`` is what the caller believes the whole object's size to be: a small one comes with one plain
        request. A wrong belief costs a request, nothing else.
        """

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        """Write an object whole or not at all.

        Bytes go as one request; an iterable of bytes is streamed with bounded memory (OVERWRITE only, unless
        `capabilities().create_only_streamed`). ``content_type`` and ``metadata`` win over those in ``attributes``;
        ``metadata`` may only hold what every backend keeps (`keys.check_metadata`), ``attributes`` what this one does.

        Raises:
            InvalidAttributes: this backend would refuse or change an attribute.
            ObjectExists: mode is CREATE and something is there.
            PreconditionFailed: mode is IfMatch and another version (or nothing) is there.
            StoreUnavailable: no answer came; *the write may have happened* (see ``outcome_unknown``).
        """

    def copy(self, source: str, target: str) -> None:
        """Copy inside this bucket, by the server where it can."""

    def delete(self, key: str) -> None:
        """Remove the object. Removing what is not there is no error."""
