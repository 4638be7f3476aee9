"""Generation and metageneration preconditions, as both APIs spell them.

https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from holdfast.sandbox.gcs.errors import GcsError, invalid, not_modified, precondition_failed


@dataclass(frozen=True)
class Preconditions:
    """What must hold for a request to be carried out; None means not asked.

    ``generation_match=0`` means that there is no live object.
    """

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str], *, source: bool = False) -> Preconditions:
        """From the JSON API's query parameters; with `source`, those about the source of a copy."""
        prefix = "ifSource" if source else "if"
        return cls(
            *(
                _number(query, f"{prefix}{name}")
                for name in ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
            )
        )

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], *, source: bool = False) -> Preconditions:
        """From the XML API's headers; with `source`, those about the source of a copy."""
        prefix = "x-goog-copy-source-if" if source else "x-goog-if"
        return cls(
            *(
                _number(headers, f"{prefix}-{name}")
                for name in (
                    "generation-match",
                    "generation-not-match",
                    "metageneration-match",
                    "metageneration-not-match",
                )
            )
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, int | None]) -> Preconditions:
        """The inverse of `as_dict`."""
        return cls(**data)

    def as_dict(self) -> dict[str, int | None]:
        """For storing with an upload session."""
        return asdict(self)

    def check(self, generation: int | None, metageneration: int | None, *, reading: bool = False) -> None:
        """Compare with the object as it is.

        Args:
            generation: of the object, or None when there is none.
            metageneration: of the object, or None when there is none.
            reading: the request only reads, so a failed "not match" is answered 304 instead of 412.

        Raises:
            GcsError: 412, or 304.
        """
        if self.generation_match is not None and self.generation_match != (generation or 0):
            raise precondition_failed("ifGenerationMatch")
        if self.metageneration_match is not None and self.metageneration_match != metageneration:
            raise precondition_failed("ifMetagenerationMatch")
        if self.generation_not_match is not None and self.generation_not_match == (generation or 0):
            raise _differs(reading, "ifGenerationNotMatch")
        if self.metageneration_not_match is not None and self.metageneration_not_match == metageneration:
            raise _differs(reading, "ifMetagenerationNotMatch")


def _differs(reading: bool, location: str) -> GcsError:
    return not_modified() if reading else precondition_failed(location)


def _number(source: Mapping[str, str], name: str) -> int | None:
    text = source.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise invalid(f"{name}: expected a non-negative integer, found {text!r}.", location=name)
    return int(text)
