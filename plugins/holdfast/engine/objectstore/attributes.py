"""What an object says of itself beside its bytes: content headers, storage class, tags and user metadata.

`attribute_mapping` translates them from one cloud to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})

#: Field to the name obstore gives it; every other name obstore gives is user metadata.
HEADERS = {
    "content_type": "Content-Type",
    "cache_control": "Cache-Control",
    "content_disposition": "Content-Disposition",
    "content_encoding": "Content-Encoding",
    "content_language": "Content-Language",
    "storage_class": "Storage-Class",
}
_FIELDS = {header: name for name, header in HEADERS.items()}


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one object. ``None`` and an empty mapping: nothing is said.

    Args:
        content_type: MIME type.
        cache_control: the ``Cache-Control`` header.
        content_disposition: the ``Content-Disposition`` header.
        content_encoding: how the stored bytes are encoded, e.g. ``gzip``; stores never decode them for Holdfast.
        content_language: the ``Content-Language`` header.
        storage_class: in the words of the cloud the object lies in, e.g. ``STANDARD_IA``, ``NEARLINE``, ``Cool``.
        tags: tags of S3 and Azure. Written with the object; no read of an object brings them.
        metadata: user metadata, names in lower case.
    """

    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    storage_class: str | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def headers(self) -> dict[str, str]:
        """The fields that are said, by HTTP name; without tags and metadata."""
        said = ((header, getattr(self, name)) for name, header in HEADERS.items())
        return {header: value for header, value in said if value is not None}

    def adding(self, content_type: str | None, metadata: Mapping[str, str] | None) -> Attributes:
        """These, with a content type and metadata of the caller's own, which win."""
        if content_type is None and not metadata:
            return self
        return replace(
            self,
            content_type=self.content_type if content_type is None else content_type,
            metadata={**self.metadata, **(metadata or {})},
        )


NO_ATTRIBUTES = Attributes()


def attributes_of(answer: Mapping[str, str]) -> Attributes:
    """The attributes in an answer of obstore's."""
    fields: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, value in answer.items():
        if isinstance(value, str):
            if name in _FIELDS:
                fields[_FIELDS[name]] = value
            else:
                metadata[name] = value
    return Attributes(**fields, metadata=metadata) if fields or metadata else NO_ATTRIBUTES  # type: ignore[arg-type]
