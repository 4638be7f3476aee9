"""The checkpoint format ``holdfast.checkpoint/1``: keys, manifests, digests. docs/formats/checkpoint.md specifies it.

A checkpoint is a manifest, written last and create-only, that names content-addressed blobs. The manifest's own
digest is taken over its exact bytes, and each manifest names its parent's: the manifests of a run form a chain that
shows who resumed from what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal

import rfc8785
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, field_serializer

from holdfast.engine.checkpoint.errors import CheckpointUnreadable

FORMAT: Literal["holdfast.checkpoint/1"] = "holdfast.checkpoint/1"
#: How many ancestors a manifest names. A replica that coalesced checkpoints lacks some parents; the chain still holds.
ANCESTORS_NAMED = 16

Digest = Annotated[str, StringConstraints(pattern=r"^blake3:[0-9a-f]{64}$")]
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
    """One named part of a checkpoint: which bytes, and how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Digest
    size_bytes: int = Field(ge=0)


class CheckpointManifest(BaseModel):
    """One committed checkpoint.

    ``model`` names the blobs that make up the model; ``state`` is the small rest as JSON. ``warnings`` says what the
    writer found odd, for whoever elects it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.checkpoint/1"] = FORMAT
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

    @property
    def size_bytes(self) -> int:
        """The blobs' bytes."""
        return sum(blob.size_bytes for blob in self.blobs.values())


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Integers beyond ±(2**53 - 1) must be strings."""
    return rfc8785.dumps(value)


def model_digest(blobs: Mapping[str, BlobRef], model: Iterable[str]) -> str:
    """The digest of the model's blob; of several, the digest of their canonical ``{name: digest}``.

    A model of one file so has the digest any tool computes over that file.
    """
    parts = {name: blobs[name].digest for name in model}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return digest_of(canonical(parts))


def parse_manifest(data: bytes, *, where: str) -> CheckpointManifest:
    """Read and check a manifest's bytes.

    Raises:
        CheckpointUnreadable: it is damaged, of an unknown version, or says another key than it lies under.
    """
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise CheckpointUnreadable(
            "the checkpoint manifest is not readable",
            where=where,
            expected=FORMAT,
            found=f"{at}: {first['msg']}" if at else first["msg"],
        ) from None
    if manifest.data != data:
        raise CheckpointUnreadable(
            "the checkpoint manifest is not in canonical form",
            where=where,
            expected="RFC 8785 bytes",
            found="other bytes of the same meaning, or damage",
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
    return manifest
