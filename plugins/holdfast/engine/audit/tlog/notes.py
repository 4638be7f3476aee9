"""Signed notes and checkpoints (`signed-note <https://c2sp.org/signed-note>`_, `tlog-checkpoint
<https://c2sp.org/tlog-checkpoint>`_).

Read strictly: what is not exactly of the form is refused. A signature of a key nobody trusts is passed over, also
where it shares the name or the id of one that is trusted; a wrong one of a trusted key refuses the note.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.engine.audit.tlog.errors import NoteRefused
from holdfast.engine.audit.tlog.keys import Signer, VerifierKey, checked_signature, decoded_base64, is_key_name
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT, HASH_BYTES
from holdfast.errors import ConfigError

MAX_NOTE_BYTES = 256 * 1024
MAX_SIGNATURES = 100
_DASH = "— "
_KEY_ID_BYTES = 4
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Signature:
    """One line below a note. Who made it is known once it is verified."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends with a line's end, and signatures of it. Not verified."""

    text: str
    signatures: tuple[Signature, ...]

    def __bytes__(self) -> bytes:
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Raises NoteRefused."""
        if len(data) > MAX_NOTE_BYTES:
            raise _malformed(f"at most {MAX_NOTE_BYTES} bytes", f"{len(data)}")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise _malformed("UTF-8", f"byte {data[error.start]:#04x} at {error.start}") from None
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise _malformed("a text, an empty line and signatures, each line ended", "none of that form")
        _check_text(text + "\n")
        below = lines[:-1].split("\n")
        if len(below) > MAX_SIGNATURES:
            raise _malformed(f"at most {MAX_SIGNATURES} signatures", f"{len(below)}")
        return cls(text + "\n", tuple(map(_signature, below)))


def _check_text(text: str) -> None:
    if not text.endswith("\n") or text == "\n":
        raise _malformed("a text whose last line is ended", repr(text[-20:]))
    if any(letter < " " and letter != "\n" for letter in text):
        raise _malformed("no control characters", "some")


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    data = decoded_base64(encoded)
    if not line.startswith(_DASH) or not is_key_name(name) or data is None or len(data) <= _KEY_ID_BYTES:
        raise _malformed("`— NAME BASE64` as a signature's line", repr(line[:80]))
    return Signature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def _malformed(expected: str, found: str) -> NoteRefused:
    return NoteRefused("this is no signed note", expected=expected, found=found)


@dataclass(frozen=True, slots=True)
class Quorum:
    """So many of these keys must have signed.

    Args:
        needed: 0 needs none, and still refuses wrong signatures of them.
        keys: a later key of the same signer is one more of them.
        title: what they are together, for messages.

    Raises:
        ConfigError: it can never be met, or one key counts twice.
    """

    needed: int
    keys: tuple[VerifierKey, ...]
    title: str = "keys"

    def __post_init__(self) -> None:
        if not 0 <= self.needed <= len(self.keys):
            raise ConfigError(
                "there are not so many keys",
                where=self.title,
                expected=f"0 to {len(self.keys)}",
                found=f"{self.needed}",
            )
        if len({key.public_key for key in self.keys}) != len(self.keys):
            raise ConfigError("the same public key counts twice", where=self.title, expected="different keys")


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose signatures make a note worth reading: every quorum must be met.

    Raises:
        ConfigError: none needs a signature, or two keys cannot be told apart by name and id.
    """

    quorums: tuple[Quorum, ...]

    def __post_init__(self) -> None:
        if not any(quorum.needed for quorum in self.quorums):
            raise ConfigError("a policy that needs no signature trusts everything", expected="at least one")
        known: dict[tuple[str, bytes], VerifierKey] = {}
        for key in self.keys:
            if known.setdefault((key.name, key.key_id), key) != key:
                raise ConfigError("two keys share their name and id", where=f"{key.name}+{key.key_id.hex()}")

    @classmethod
    def of(cls, *keys: VerifierKey) -> Policy:
        """All of these must have signed."""
        return cls((Quorum(len(keys), keys),))

    @classmethod
    def trusting(cls, keys: Sequence[VerifierKey], needed: int | None = None) -> Policy:
        """So many of the keys somebody trusts must have signed; by default all of them."""
        return cls((Quorum(len(keys) if needed is None else needed, tuple(keys), "trusted keys"),))

    @property
    def keys(self) -> Sequence[VerifierKey]:
        """Every key that is known."""
        return [key for quorum in self.quorums for key in quorum.keys]


@dataclass(frozen=True, slots=True)
class Verified:
    """A note whose policy is met.

    Args:
        note: it.
        signed_by: the known keys that signed, in the order of their signatures.
        ignored: names of signatures by keys that are not known.
    """

    note: Note
    signed_by: tuple[VerifierKey, ...]
    ignored: tuple[str, ...]


def verify(data: bytes, policy: Policy) -> Verified:
    """Who of the known keys signed the note.

    Raises:
        NoteRefused: it is malformed, a known key's signature is wrong, or too few of them signed.
    """
    note = Note.parse(data)
    known = {(key.name, key.key_id): key for key in policy.keys}
    message, signed, ignored = note.text.encode(), dict[VerifierKey, None](), []
    for each in note.signatures:
        key = known.get((each.name, each.key_id))
        if key is None:
            ignored.append(each.name)
        elif key.verifies(message, each.signature):
            signed[key] = None
        else:
            raise NoteRefused(
                "the signature is not of this text",
                where=f"{key.name}+{key.key_id.hex()}",
                expected=f"one of {key.algorithm.name}",
                found="another",
            )
    for quorum in policy.quorums:
        present = [key for key in quorum.keys if key in signed]
        if len(present) < quorum.needed:
            raise NoteRefused(
                "the note is not signed by enough of its keys",
                where=quorum.title,
                expected=f"{quorum.needed} of {', '.join(f'{key.name}+{key.key_id.hex()}' for key in quorum.keys)}",
                found=", ".join(key.name for key in present) or "none",
            )
    return Verified(note, tuple(signed), tuple(ignored))


def sign(text: str, signers: Iterable[Signer]) -> bytes:
    """The note of this text with one signature of each, in their order.

    Raises:
        NoteRefused: the text cannot be a note's.
        SignerError: one gave a signature that its own key does not verify.
        KeyServiceRefused, KeyServiceUnavailable: a cloud's key could not sign.
    """
    _check_text(text)
    return bytes(cosigned(Note(text, ()), signers))


def cosigned(note: Note, signers: Iterable[Signer]) -> Note:
    """The note with a signature of each of them added, in the place of one that its key made before."""
    message, signatures = note.text.encode(), list(note.signatures)
    for signer in signers:
        key = signer.key
        made = checked_signature(key, message, signer.sign(message))
        signatures = [each for each in signatures if (each.name, each.key_id) != (key.name, key.key_id)]
        signatures.append(Signature(key.name, key.key_id, made))
    return Note(note.text, tuple(signatures))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself at one size.

    Args:
        origin: the log's name.
        size: how many leaves.
        root: of the tree of this size.
        extensions: more lines, opaque.

    Raises:
        NoteRefused: it cannot be one.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lines = (self.origin, *self.extensions)
        if not all(lines) or any(letter < " " for line in lines for letter in line):
            raise _no_checkpoint("lines that are not empty, without control characters", repr(lines)[:200])
        if not 0 <= self.size <= _MAX_SIZE or len(self.root) != HASH_BYTES:
            raise _no_checkpoint(f"a size and a root of {HASH_BYTES} bytes", f"{self.size} and {len(self.root)} bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _no_checkpoint("the empty tree's root", self.root.hex())

    @property
    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Raises NoteRefused."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop():
            raise _no_checkpoint("origin, size and root, each line ended", repr(text[:80]))
        origin, size, root, *extensions = lines
        if not (size.isascii() and size.isdecimal() and len(size) < 20) or str(int(size)) != size:
            raise _no_checkpoint("a decimal size without leading zeros", repr(size[:40]))
        found = decoded_base64(root)
        if found is None:
            raise _no_checkpoint("a root in base64", repr(root[:80]))
        return cls(origin, int(size), found, tuple(extensions))


def _no_checkpoint(expected: str, found: str) -> NoteRefused:
    return NoteRefused("this is no checkpoint", expected=expected, found=found)


def verify_checkpoint(data: bytes, origin: str, policy: Policy) -> tuple[Checkpoint, Verified]:
    """The checkpoint of this log in a signed note, and who signed it.

    Raises:
        NoteRefused: as `verify`; or it is no checkpoint, or another log's.
    """
    verified = verify(data, policy)
    checkpoint = Checkpoint.parse(verified.note.text)
    if checkpoint.origin != origin:
        raise NoteRefused("the checkpoint is of another log", expected=origin, found=checkpoint.origin[:200])
    return checkpoint, verified
