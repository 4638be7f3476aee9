"""Proof files (`tlog-proof <https://c2sp.org/tlog-proof>`_): one entry is in a log, checkable offline.

A file holds the entry's index, its inclusion proof, and the checkpoint as its log signed it. The entry itself is the
reader's to bring, or to make from the extra data, which nothing vouches for.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.engine.audit.tlog.errors import ProofRefused
from holdfast.engine.audit.tlog.keys import decoded_base64
from holdfast.engine.audit.tlog.merkle import HASH_BYTES, leaf_hash
from holdfast.engine.audit.tlog.notes import MAX_NOTE_BYTES, Checkpoint, Policy, Verified, verify_checkpoint
from holdfast.engine.audit.tlog.treeproofs import verify_inclusion

MAX_EXTRA_BYTES = 1024 * 1024
_HEADER = "c2sp.org/tlog-proof@v1"
#: A tree of 2**63 leaves is no higher.
_MAX_HASHES = 63
_MAX_BYTES = MAX_NOTE_BYTES + MAX_EXTRA_BYTES * 4 // 3 + 64 * 1024


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof file says. Not verified.

    Args:
        index: of the entry.
        hashes: its inclusion proof, from the leaf's sibling up.
        checkpoint: the signed note.
        extra: whatever its writer added: nothing vouches for it.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Raises ProofRefused."""
        if len(data) > _MAX_BYTES:
            raise _malformed(f"at most {_MAX_BYTES} bytes", f"{len(data)}")
        above, blank, checkpoint = data.partition(b"\n\n")
        try:
            header, *lines = above.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise _malformed("ASCII above the checkpoint", "other bytes") from None
        if header != _HEADER or not blank:
            raise _malformed(f"{_HEADER}, lines, an empty line and a checkpoint", repr(header[:40]))
        extra = _extra(lines)
        index = _index(lines)
        if len(lines) > _MAX_HASHES:
            raise _malformed(f"at most {_MAX_HASHES} hashes", f"{len(lines)}")
        return cls(index, tuple(map(_hash, lines)), checkpoint, extra)


def format_proof(index: int, hashes: Iterable[bytes], checkpoint: bytes, extra: bytes | None = None) -> bytes:
    """A proof file: the entry's index, its inclusion proof, the signed note, and what `Proof` says of ``extra``."""
    lines = [_HEADER]
    if extra is not None:
        lines.append(f"extra {base64.b64encode(extra).decode()}")
    lines += [f"index {index}", *(base64.b64encode(each).decode() for each in hashes), ""]
    return "".join(f"{line}\n" for line in lines).encode() + checkpoint


def _extra(lines: list[str]) -> bytes | None:
    if not lines or not lines[0].startswith("extra "):
        return None
    extra = decoded_base64(lines.pop(0).removeprefix("extra "))
    if extra is None or len(extra) > MAX_EXTRA_BYTES:
        raise _malformed(f"`extra` and base64 of at most {MAX_EXTRA_BYTES} bytes", "something else")
    return extra


def _index(lines: list[str]) -> int:
    word, _, digits = (lines.pop(0) if lines else "").partition(" ")
    if word != "index" or not (digits.isdecimal() and len(digits) < 20) or str(int(digits)) != digits:
        raise _malformed("`index` and a decimal number without leading zeros", repr(f"{word} {digits}"[:60]))
    return int(digits)


def _hash(line: str) -> bytes:
    found = decoded_base64(line)
    if found is None or len(found) != HASH_BYTES:
        raise _malformed("a hash in base64", repr(line[:60]))
    return found


def _malformed(expected: str, found: str) -> ProofRefused:
    return ProofRefused("this is no proof file", expected=expected, found=found)


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry is at this index of this checkpoint's tree, and these signed the checkpoint."""

    index: int
    checkpoint: Checkpoint
    verified: Verified


def verify_proof(data: bytes, entry: bytes, origin: str, policy: Policy) -> Proven:
    """That the entry is in the log of this origin, by a proof file.

    Raises:
        ProofRefused: the file is malformed, or the entry is not where it says.
        NoteRefused: the checkpoint is malformed, of another log, or not signed as the policy wants.
    """
    proof = Proof.parse(data)
    checkpoint, verified = verify_checkpoint(proof.checkpoint, origin, policy)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return Proven(proof.index, checkpoint, verified)
