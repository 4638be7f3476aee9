"""The checkpoint formats ``holdfast.checkpoint/1`` and ``/2``: keys, manifests, digests. docs/formats/checkpoint.md
specifies them. ``/2`` is ``/1`` with blobs that lie encoded in the store; a manifest without one is ``/1``.

A checkpoint is a manifest, written last and create-only, that names content-addressed blobs. The manifest's own
digest is taken over its exact bytes, and each manifest names its parent's: the manifests of a run form a chain that
shows who resumed from what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import rfc8785
from blake3 import blake3
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)

from holdfast.engine.checkpoint.errors import CheckpointUnreadable, FormatUnknown

Format = Literal["holdfast.checkpoint/1", "holdfast.checkpoint/2"]
#: Without encoded blobs, and with some.
PLAIN_FORMAT: Literal["holdfast.checkpoint/1"] = "holdfast.checkpoint/1"
ENCODED_FORMAT: Literal["holdfast.checkpoint/2"] = "holdfast.checkpoint/2"
FORMATS: tuple[Format, ...] = (PLAIN_FORMAT, ENCODED_FORMAT)
#: How a blob lies in the store: a Zstandard frame, of the bytes as they are or with the bytes of each element of so
#: many bytes sorted by their place in it, see `encoding`.
Encoding = Literal["zstd", "zstd-shuffled-2", "zstd-shuffled-4", "zstd-shuffled-8"]
#: How many ancestors a manifest names. A replica that coalesced checkpoints lacks some parents; the chain still holds.
ANCESTORS_NAMED = 16

Digest = Annotated[str, StringConstraints(pattern=r"^blake3:[0-9a-f]{64}$")]
_SEAL = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}")
_MANIFEST_KEY = re.compile(r"/checkpoints/(\d{12})\.(\d{6})\.json$")


def digest_of(data: bytes | bytearray | memoryview | Iterable[bytes]) -> str:
    """``blake3:<64 hex digits>`` of the bytes."""
    if isinstance(data, bytes | bytearray | memoryview):
        return f"blake3:{blake3(data).hexdigest()}"
    hasher = blake3()
    for chunk in data:
        hasher.update(chunk)
    return f"blake3:{hasher.hexdigest()}"


def run_root(run: str) -> str:
    return f"runs/{run}"


def blob_key(run: str, digest: str) -> str:
    """Where the bytes of this digest lie. The colon is replaced: not every store and tool takes one in a name."""
    return f"{run_root(run)}/blobs/{digest.replace(':', '-')}"


def manifest_prefix(run: str) -> str:
    return f"{run_root(run)}/checkpoints/"


def manifest_key(run: str, step: int, epoch: int) -> str:
    """The key holds the epoch: a resumed run reaches steps again that a damaged checkpoint already has."""
    return f"{manifest_prefix(run)}{step:012d}.{epoch:06d}.json"


def parse_manifest_key(key: str) -> tuple[int, int] | None:
    """(step, epoch) of a manifest's key, ``None`` for any other key."""
    match = _MANIFEST_KEY.search(key)
    return (int(match.group(1)), int(match.group(2))) if match else None


class BlobRef(BaseModel):
    """One named part of a checkpoint: which bytes, and how many.

    ``digest`` and ``size_bytes`` are of the bytes in the store. For an encoded blob ``content_digest`` and
    ``content_size_bytes`` are of what they decode to; a plain one has none of these three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Digest
    size_bytes: int = Field(ge=0)
    encoding: Encoding | None = None
    content_digest: Digest | None = None
    content_size_bytes: int | None = Field(None, ge=0)

    @property
    def content(self) -> str:
        """The digest of the plain bytes, whether they lie encoded or not."""
        return self.content_digest or self.digest

    @property
    def content_bytes(self) -> int:
        """How many plain bytes."""
        return self.size_bytes if self.content_size_bytes is None else self.content_size_bytes

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        named = [one is not None for one in (self.encoding, self.content_digest, self.content_size_bytes)]
        if any(named) != all(named):
            raise ValueError("an encoded blob has encoding, content_digest and content_size_bytes, a plain one none")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class CheckpointManifest(BaseModel):
    """One committed checkpoint.

    ``model`` names the blobs that make up the model; ``state`` is the small rest as JSON. ``warnings`` says what the
    writer found odd, for whoever elects it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format = PLAIN_FORMAT
    run: str
    step: int = Field(ge=0)
    epoch: int = Field(ge=1)
    site: str
    parent: Digest | None
    ancestors: tuple[Digest, ...] = ()
    model_digest: Digest
    model: tuple[str, ...]
    blobs: dict[str, BlobRef]
    state: dict[str, JsonValue] = Field(default_factory=dict)
    dataset_snapshot: str | None = None
    fingerprint: dict[str, str] = Field(default_factory=dict)
    saved_at: datetime
    write_id: str
    warnings: tuple[str, ...] = ()

    @field_serializer("saved_at")
    def _utc(self, value: datetime) -> str:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    @property
    def key(self) -> str:
        return manifest_key(self.run, self.step, self.epoch)

    @cached_property
    def data(self) -> bytes:
        """The exact bytes of the manifest: RFC 8785 canonical JSON."""
        return canonical(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        return digest_of(self.data)

    def sealed(self) -> Self:
        """The same with a ``write_id`` that vouches for all the rest: a UUID of version 8 made of its digest."""
        return type(self).model_validate({**dict(self), "write_id": self._seal()})

    @property
    def vouches_for_itself(self) -> bool | None:
        """Whether the seal fits; None: there is none, as in manifests of earlier versions of holdfast."""
        if _SEAL.fullmatch(self.write_id) is None:
            return None
        return self.write_id == self._seal()

    def _seal(self) -> str:
        rest = self.model_dump(mode="json", exclude={"write_id"})
        bits = int.from_bytes(blake3(canonical(rest)).digest(16), "big")
        bits = bits & ~(0xF << 76) | 0x8 << 76  # version 8 of RFC 9562: what the bits mean is ours
        bits = bits & ~(0x3 << 62) | 0x2 << 62
        return f"{bits:032x}"

    @property
    def size_bytes(self) -> int:
        """The blobs' bytes in the store."""
        return sum(blob.size_bytes for blob in self.blobs.values())

    @property
    def content_bytes(self) -> int:
        """The blobs' plain bytes: what a restore reads into memory."""
        return sum(blob.content_bytes for blob in self.blobs.values())

    @property
    def encoded(self) -> int:
        """How many of the blobs lie encoded."""
        return sum(blob.encoding is not None for blob in self.blobs.values())

    @model_validator(mode="after")
    def _format_says_it(self) -> Self:
        if (expected := format_of(self.blobs)) != self.format:
            raise ValueError(f"a manifest with {self.encoded} encoded blobs is {expected}, not {self.format}")
        return self


def format_of(blobs: Mapping[str, BlobRef]) -> Format:
    """The version of a manifest with these blobs: what no blob needs is not asked of its readers."""
    return PLAIN_FORMAT if all(blob.encoding is None for blob in blobs.values()) else ENCODED_FORMAT


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Integers beyond ±(2**53 - 1) must be strings."""
    return rfc8785.dumps(value)


def model_digest(blobs: Mapping[str, BlobRef], model: Iterable[str]) -> str:
    """The digest of the model's blob; of several, the digest of their canonical ``{name: digest}``.

    A model of one file so has the digest any tool computes over that file. The digests are of the plain bytes: how a
    model is stored does not make it another.
    """
    parts = {name: blobs[name].content for name in model}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return digest_of(canonical(parts))


def parse_manifest(data: bytes, *, where: str) -> CheckpointManifest:
    """Read and check a manifest's bytes.

    Raises:
        CheckpointUnreadable: it is damaged, or says another key than it lies under.
        FormatUnknown: a later version of the format, or another one.
    """
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        _refuse_unknown_format(data, where)
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise CheckpointUnreadable(
            "the checkpoint manifest is not readable",
            where=where,
            expected=" or ".join(FORMATS),
            found=f"{at}: {first['msg']}" if at else first["msg"],
        ) from None
    try:
        canonical_form = manifest.data
    except (ValueError, OverflowError) as error:  # a number or a time of state that JSON or a clock cannot hold
        raise CheckpointUnreadable(
            "the checkpoint manifest holds what none can hold",
            where=where,
            expected="numbers of RFC 8785 and times of RFC 3339",
            found=f"{type(error).__name__}: {error}",
        ) from None
    if canonical_form != data:
        raise CheckpointUnreadable(
            "the checkpoint manifest is not in canonical form",
            where=where,
            expected="RFC 8785 bytes",
            found="other bytes of the same meaning, or damage",
        )
    if manifest.vouches_for_itself is False:
        raise CheckpointUnreadable(
            "the checkpoint manifest is damaged: its write_id vouches for other contents",
            where=where,
            expected=manifest._seal(),
            found=manifest.write_id,
        )
    if parse_manifest_key(where) not in (None, (manifest.step, manifest.epoch)):
        raise CheckpointUnreadable(
            "the checkpoint manifest names another step or epoch than its key",
            where=where,
            expected=f"{manifest.step}.{manifest.epoch}",
            found=where.rpartition("/")[2],
        )
    if missing := [name for name in manifest.model if name not in manifest.blobs]:
        raise CheckpointUnreadable(
            "the checkpoint manifest names a model blob it does not have",
            where=where,
            expected="names among its blobs",
            found=", ".join(missing),
        )
    if (expected := model_digest(manifest.blobs, manifest.model)) != manifest.model_digest:
        raise CheckpointUnreadable(
            "the checkpoint manifest names another model than its blobs make up",
            where=where,
            expected=expected,
            found=manifest.model_digest,
        )
    return manifest


def _refuse_unknown_format(data: bytes, where: str) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # damage, not a format
        return
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, str) and found not in FORMATS:
        raise FormatUnknown(
            "the checkpoint is of a format that this version of holdfast does not read",
            where=where,
            expected=" or ".join(FORMATS),
            found=found,
            fix="Read it with the version of holdfast that wrote it, or a later one",
        ) from None
