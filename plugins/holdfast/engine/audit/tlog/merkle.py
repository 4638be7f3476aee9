"""The Merkle tree of RFC 9162 (and 6962) over SHA-256: hashes, compact ranges, roots.

A *compact range* is the list of the largest perfect subtrees that together are the leaves from ``begin`` to ``end``:
at most two of each height. It is all that is kept of leaves already seen, so that a tree of any size is built in
constant memory (`RFC 9162 section 2.1 <https://www.rfc-editor.org/rfc/rfc9162#section-2.1>`_; the name is of Google's
Trillian).

A subtree is named by its level and index: it has ``2**level`` leaves, from ``index * 2**level`` on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from holdfast.engine.audit.tlog.errors import ProofRefused

HASH_BYTES = 32
#: Of the tree without leaves.
EMPTY_ROOT = sha256(b"").digest()
_LEAF = b"\0"
_NODE = b"\1"

#: Gives the hash of a perfect subtree by level and index.
Nodes = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Of one entry."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two subtrees."""
    return sha256(_NODE + left + right).digest()


def cover(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The subtrees of the compact range, from left to right, as (level, index)."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, (begin & -begin).bit_length() - 1)
        yield level, begin >> level
        begin += 1 << level


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The leaves from ``begin`` (inclusive) to ``end`` (exclusive), as their largest perfect subtrees.

    Args:
        begin: index of the first leaf.
        end: index after the last one.
        hashes: of the subtrees `cover` names, 32 bytes each.

    Raises:
        ProofRefused: these are not so many hashes.
    """

    begin: int = 0
    end: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"expected 0 <= begin <= end; found {self.begin} and {self.end}")
        checked_hashes(self.hashes, sum(1 for _ in cover(self.begin, self.end)), f"leaves {self.begin} to {self.end}")

    def append(self, leaves: Sequence[bytes]) -> CompactRange:
        """With these leaf hashes after it. Level by level, so many at once cost one hash each.

        Raises:
            ProofRefused: one of them is of another length: two of those could be cut elsewhere and give the same node.
        """
        if set(map(len, leaves)) - {HASH_BYTES}:
            checked_hashes(leaves, len(leaves), f"leaves from {self.end} on")
        row, first, level = list(leaves), self.end, 0
        left, right = list(self.hashes), []
        while row:
            if first & 1:
                if (first - 1) << level >= self.begin:
                    row.insert(0, left.pop())
                    first -= 1
                else:
                    left.append(row.pop(0))
                    first += 1
            if len(row) & 1:
                right.append(row.pop())
            row = parents(row)
            first >>= 1
            level += 1
        return CompactRange(self.begin, self.end + len(leaves), (*left, *reversed(right)))

    def merge(self, other: CompactRange) -> CompactRange:
        """With the range that begins where this one ends."""
        if other.begin != self.end:
            raise ValueError(f"expected a range from {self.end} on; found one from {other.begin} on")
        hashes = list(self.hashes)
        for (level, index), found in zip(cover(other.begin, other.end), other.hashes, strict=True):
            top = found
            while index & 1 and (index - 1) << level >= self.begin:
                top = node_hash(hashes.pop(), top)
                level, index = level + 1, index >> 1
            hashes.append(top)
        return CompactRange(self.begin, other.end, tuple(hashes))

    @property
    def root(self) -> bytes:
        """Of the tree of ``end`` leaves.

        Raises:
            ValueError: the range does not begin at 0.
        """
        if self.begin:
            raise ValueError(f"expected a range from leaf 0 on; found one from {self.begin} on")
        return folded(self.hashes) if self.hashes else EMPTY_ROOT


def parents(row: Sequence[bytes]) -> list[bytes]:
    """The next row: of an even number of neighbours, the first of which has an even index."""
    pairs = iter(row)
    return [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]


def folded(hashes: Sequence[bytes]) -> bytes:
    """One hash of subtrees whose heights fall from left to right: the tree's over exactly their leaves."""
    found = hashes[-1]
    for left in reversed(hashes[:-1]):
        found = node_hash(left, found)
    return found


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree of these leaf hashes."""
    return CompactRange().append(leaves).root


def hash_of(begin: int, end: int, nodes: Nodes) -> bytes:
    """The hash of the leaves from ``begin`` to ``end`` in a tree where they are one subtree, perfect or the last."""
    return folded([nodes(level, index) for level, index in cover(begin, end)])


def checked_hashes(hashes: Sequence[bytes], count: int, where: str) -> None:
    """Raises ProofRefused unless these are so many hashes of 32 bytes."""
    if len(hashes) != count or any(len(each) != HASH_BYTES for each in hashes):
        raise ProofRefused(
            "these are not the hashes of it",
            where=where,
            expected=f"{count} of {HASH_BYTES} bytes",
            found=f"{len(hashes)} of {sorted({len(each) for each in hashes})} bytes" if hashes else "none",
        )


class Subtrees:
    """Every perfect subtree over leaves that are in memory, to make proofs from: about 65 bytes for each subtree.

    Args:
        leaves: leaf hashes.
        begin: index of the first of them.
        known: hashes of subtrees outside of them, by level and index.
    """

    def __init__(self, leaves: Sequence[bytes], begin: int = 0, known: dict[tuple[int, int], bytes] | None = None):
        self._known = known or {}
        self._rows: list[tuple[int, list[bytes]]] = []
        row, first = list(leaves), begin
        while row:
            self._rows.append((first, row))
            start = first & 1
            row = parents(row[start : len(row) - ((len(row) - start) & 1)])
            first = (first + 1) >> 1

    def __call__(self, level: int, index: int) -> bytes:
        """Raises KeyError: it is neither among them nor made of them."""
        if (found := self._known.get((level, index))) is not None:
            return found
        if level < len(self._rows):
            first, row = self._rows[level]
            if 0 <= index - first < len(row):
                return row[index - first]
        if level == 0:
            raise KeyError(index)
        return node_hash(self(level - 1, 2 * index), self(level - 1, 2 * index + 1))
