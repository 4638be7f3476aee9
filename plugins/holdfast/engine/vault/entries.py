"""What an entry of the log may say, field by field. Anything else is no entry.

A document has one spelling: canonical JSON (RFC 8785). So a field given twice, a number of another form or other white
space cannot make two readers see two things, and a digest of the bytes is a digest of what they say.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault.layout import TIERS

#: The largest number an entry can have: twelve digits.
LAST_NUMBER = 10**12 - 1
#: The largest whole number that every reader of JSON keeps as it is.
_LARGEST = 2**53 - 1


def read_canonical(data: bytes) -> dict[str, Any]:
    """A JSON object in its one spelling.

    Raises:
        ValueError: it is no JSON object, or is spelt otherwise.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"a JSON {type(found).__name__} instead of an object")
        if canonical(found) != data:
            raise ValueError("another spelling than RFC 8785")
    except RecursionError:
        raise ValueError("nested too deep") from None
    return found


def _check_bytes(length: int) -> AfterValidator:
    def check(text: str) -> str:
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() != text:
            raise ValueError("not the one spelling of base64")
        if length and len(data) != length:
            raise ValueError(f"{length} bytes expected, {len(data)} found")
        return text

    return AfterValidator(check)


def _check_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Number = Annotated[int, Field(strict=True, ge=1, le=LAST_NUMBER)]
Count = Annotated[int, Field(strict=True, ge=0, le=_LARGEST)]
Text = Annotated[str, StringConstraints(strict=True)]
Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{32}$")]
KeysetId = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
EntryDigest = Annotated[str, StringConstraints(strict=True, pattern=r"^sha256:[0-9a-f]{64}$")]
IndexDigest = Annotated[str, StringConstraints(strict=True, pattern=r"^blake3:[0-9a-f]{64}$")]
Key32 = Annotated[str, StringConstraints(strict=True), _check_bytes(32)]
Signature = Annotated[str, StringConstraints(strict=True), _check_bytes(64)]
Base64 = Annotated[str, StringConstraints(strict=True), _check_bytes(0)]
Time = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"),
    AfterValidator(_check_time),
]
Generation = Annotated[str, StringConstraints(strict=True, pattern=r"^[1-9][0-9]{0,4}$")]


class Form(BaseModel):
    """A document, or a part of one. An unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _distinct(what: str, values: list[Any]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{what} named twice")


class KeysForm(Form):
    """The public side of the keys."""

    recipients: dict[Generation, Key32]
    signers: list[tuple[Key32, Literal["writer", "admin"]]]
    keysets: dict[Literal["writer", "reader", "admin"], KeysetId]

    @model_validator(mode="after")
    def _whole(self) -> KeysForm:
        _distinct("a signer", [key for key, _ in self.signers])
        if not self.recipients or max(map(int, self.recipients)) > 2**16 - 1:
            raise ValueError("generations from 1 to 65535 expected")
        if len(self.keysets) != 3:
            raise ValueError("a key set of each role expected")
        if "admin" not in {role for _, role in self.signers}:
            raise ValueError("nobody would be an administrator")
        return self


class StateForm(Form):
    """All that still counts, as an anchor says it."""

    live: list[tuple[Number, EntryDigest]]
    held: list[Number]
    keys: list[tuple[Number, EntryDigest]]
    indexes: list[tuple[Id, IndexDigest]]
    collected: list[tuple[Id, Number]]
    dropped: list[tuple[Id, Number]]

    @model_validator(mode="after")
    def _whole(self) -> StateForm:
        for what, values in (("a backup", self.live), ("a key entry", self.keys)):
            numbers = [number for number, _ in values]
            if numbers != sorted(set(numbers)):
                raise ValueError(f"{what} out of order")
        for what, names in (("an index", self.indexes), ("a pack", self.collected), ("an index", self.dropped)):
            _distinct(what, [name for name, _ in names])
        if not self.keys or self.keys[0][0] != 1:
            raise ValueError("the keys begin with entry 1")
        if not set(self.held) <= {number for number, _ in self.live}:
            raise ValueError("a hold of no live backup")
        return self


def _names_older(sequence: int, state: Mapping[str, Any]) -> bool:
    numbers = [number for what in ("live", "keys") for number, _ in state[what]]
    dated = [number for what in ("collected", "dropped") for _, number in state[what]]
    return max(numbers) < sequence and max(dated, default=0) <= sequence


class InitPublic(Form):
    keys: KeysForm


class BackupPublic(Form):
    backup: Id
    tier: Literal[TIERS]  # type: ignore[valid-type]
    indexes: list[tuple[Id, IndexDigest]]

    @model_validator(mode="after")
    def _whole(self) -> BackupPublic:
        _distinct("an index", [name for name, _ in self.indexes])
        return self


class HoldPublic(Form):
    backups: list[Number]
    held: Annotated[bool, Field(strict=True)]


class ForgetPublic(Form):
    forgotten: list[Number]
    state: StateForm


class CollectPublic(Form):
    state: StateForm


class BackupBody(Form):
    """What only those with the metadata key know of a backup."""

    source: Text
    kind: Text
    taken_at: Time
    objects: Count
    size_bytes: Count
    stored_bytes: Count
    segments: list[tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], Text, Count, Count]]
    origin: dict[str, Any]
    labels: dict[str, Text]


class HoldBody(Form):
    """Nothing so far."""


class ForgetBody(Form):
    by: Literal["retention", "name"]


class CollectBody(Form):
    """``given_up``: what a repair went on without, where no collection wrote it."""

    dead_bytes: Count | None = None
    given_up: Text | None = None


class EntryForm(Form):
    """An entry but for what its kind says."""

    format: Literal["holdfast.vault.log/1"]
    repository: Id
    sequence: Number
    previous: EntryDigest | None
    kind: Literal["init", "keys", "backup", "hold", "forget", "collect"]
    created_at: Time
    write_id: Id
    public: dict[str, Any]
    body: Base64 | None
    signer: Key32
    signature: Signature

    @model_validator(mode="after")
    def _whole(self) -> EntryForm:
        if (self.sequence == 1) != (self.kind == "init") or (self.sequence == 1) != (self.previous is None):
            raise ValueError("entry 1, and no other, is `init` and follows none")
        if (self.kind in BODIES) != (self.body is not None):
            raise ValueError(f"a `{self.kind}` entry {'without' if self.body is None else 'with'} a body")
        PUBLIC[self.kind].validate_python(self.public)
        if "state" in self.public and not _names_older(self.sequence, self.public["state"]):
            raise ValueError("an anchor that names what comes after it")
        return self


PUBLIC: Mapping[str, TypeAdapter[Any]] = {
    "init": TypeAdapter(InitPublic),
    "keys": TypeAdapter(InitPublic),
    "backup": TypeAdapter(BackupPublic),
    "hold": TypeAdapter(HoldPublic),
    "forget": TypeAdapter(ForgetPublic),
    "collect": TypeAdapter(CollectPublic),
}


#: By kind; `init` and `keys` have none.
BODIES: Mapping[str, TypeAdapter[Any]] = {
    "backup": TypeAdapter(BackupBody),
    "hold": TypeAdapter(HoldBody),
    "forget": TypeAdapter(ForgetBody),
    "collect": TypeAdapter(CollectBody),
}
