"""Proofs about a tree: a leaf is in it, a smaller tree is its beginning, a run of leaves lies where it says.

Inclusion and consistency are those of RFC 9162 (`2.1.3 <https://www.rfc-editor.org/rfc/rfc9162#section-2.1.3>`_,
`2.1.4 <https://www.rfc-editor.org/rfc/rfc9162#section-2.1.4>`_). A *range proof* is for whoever has a run of leaves in
hand: the compact ranges left and right of it. With the leaves they give the root; and the left one alone gives the
root of the tree before the run was appended, so one proof shows both that the run is in the new tree and that the new
tree goes on from the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.engine.audit.tlog.errors import ProofRefused
from holdfast.engine.audit.tlog.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    CompactRange,
    Nodes,
    Subtrees,
    checked_hashes,
    cover,
    hash_of,
    node_hash,
)


def inclusion_proof(index: int, size: int, nodes: Nodes) -> tuple[bytes, ...]:
    """The hashes from the leaf's sibling up to the root's child, for leaf ``index`` in the tree of ``size``."""
    if not 0 <= index < size:
        raise ValueError(f"expected an index below the size {size}; found {index}")
    ranges, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _left_size(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return tuple(hash_of(start, stop, nodes) for start, stop in reversed(ranges))


def _left_size(size: int) -> int:
    """The largest power of two below it."""
    return 1 << ((size - 1).bit_length() - 1)


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that a leaf hash and its inclusion proof lead to (RFC 9162, 2.1.3.2).

    Raises:
        ProofRefused: no proof for this index and size has such a form.
    """
    if not 0 <= index < size:
        raise ProofRefused("no leaf of the tree has this index", expected=f"0 to {size - 1}", found=str(index))
    if len(leaf) != HASH_BYTES:
        raise ProofRefused("this is no leaf's hash", expected=f"{HASH_BYTES} bytes", found=f"{len(leaf)}")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    checked_hashes(proof, inner + border, f"inclusion of leaf {index} in {size}")
    found = leaf
    for level, sibling in enumerate(proof):
        is_right = level >= inner or (index >> level) & 1
        found = node_hash(sibling, found) if is_right else node_hash(found, sibling)
    return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises ProofRefused unless the leaf hash is at ``index`` in the tree of this size and root.

    The size is taken as given, from where the root is: some proofs lead to the same root with another size.
    """
    found = root_from_inclusion(leaf, index, size, proof)
    if found != root:
        raise ProofRefused(
            "the leaf is not in the tree",
            where=f"leaf {index} of {size}",
            expected=f"root {root.hex()}",
            found=found.hex(),
        )


def consistency_proof(old_size: int, new_size: int, nodes: Nodes) -> tuple[bytes, ...]:
    """That the tree of ``old_size`` is the beginning of that of ``new_size``; empty where one is empty or they are one.

    Args:
        nodes: subtrees of the new tree.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"expected a size up to {new_size}; found {old_size}")
    if old_size in (0, new_size):
        return ()
    ranges, begin, end = [], 0, new_size
    while old_size != end:
        middle = begin + _left_size(end - begin)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:
        ranges.append((begin, end))
    return tuple(hash_of(start, stop, nodes) for start, stop in reversed(ranges))


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises ProofRefused unless the tree of the old size and root is the beginning of the new one (2.1.4.2)."""
    where = f"consistency of {old_size} and {new_size}"
    if not 0 <= old_size <= new_size:
        raise ProofRefused("the tree became smaller", where=where)
    if old_size in (0, new_size):
        checked_hashes(proof, 0, where)
        if old_root != (new_root if old_size else EMPTY_ROOT):
            raise _other_tree("old", where, old_root, new_root if old_size else EMPTY_ROOT)
        return
    node, last = old_size - 1, new_size - 1
    shift = (~node & (node + 1)).bit_length() - 1
    node, last = node >> shift, last >> shift
    path = list(proof) if node else [old_root, *proof]
    inner = (node ^ last).bit_length()
    checked_hashes(path, 1 + inner + (node >> inner).bit_count(), where)
    found_old = found_new = path[0]
    for sibling in path[1:]:
        if node & 1 or node == last:
            found_old, found_new = node_hash(sibling, found_old), node_hash(sibling, found_new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found_new = node_hash(found_new, sibling)
        node, last = node >> 1, last >> 1
    if found_old != old_root:
        raise _other_tree("old", where, old_root, found_old)
    if found_new != new_root:
        raise _other_tree("new", where, new_root, found_new)


def _other_tree(which: str, where: str, expected: bytes, found: bytes) -> ProofRefused:
    return ProofRefused(
        f"the proof is not of the {which} tree", where=where, expected=f"root {expected.hex()}", found=found.hex()
    )


@dataclass(frozen=True, slots=True)
class RangeProof:
    """What is left and right of the leaves from a to b in a tree of N: the compact ranges [0, a) and [b, N)."""

    left: tuple[bytes, ...]
    right: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"".join((*self.left, *self.right))

    @classmethod
    def parse(cls, data: bytes, begin: int, end: int, size: int) -> RangeProof:
        """Of the leaves from ``begin`` to ``end`` in the tree of ``size``. Raises ProofRefused: another length."""
        if not 0 <= begin <= end <= size:
            raise ProofRefused("no leaves of the tree are these", expected=f"up to {size}", found=f"{begin} to {end}")
        hashes = tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))
        left = sum(1 for _ in cover(0, begin))
        checked_hashes(hashes, left + sum(1 for _ in cover(end, size)), f"range proof of {begin} to {end} in {size}")
        return cls(hashes[:left], hashes[left:])


def range_proof(begin: int, end: int, size: int, nodes: Nodes) -> RangeProof:
    """For the leaves from ``begin`` to ``end`` in the tree of ``size``; nodes inside of them are not asked for."""
    return RangeProof(
        tuple(nodes(level, index) for level, index in cover(0, begin)),
        tuple(nodes(level, index) for level, index in cover(end, size)),
    )


def old_root(left: tuple[bytes, ...], size: int) -> bytes:
    """The root of the tree of the first ``size`` leaves, from the left part of a range proof. Raises ProofRefused."""
    return CompactRange(0, size, left).root


def root_around(run: CompactRange, size: int, proof: RangeProof) -> bytes:
    """The root of the tree of ``size`` that has this run of leaves.

    Raises:
        ProofRefused: the proof has another form than one for this run and size.
    """
    if run.end > size:
        raise ProofRefused("the leaves go beyond the tree", expected=f"up to {size}", found=f"up to {run.end}")
    left = CompactRange(0, run.begin, proof.left)
    return left.merge(run).merge(CompactRange(run.end, size, proof.right)).root


def verify_range(begin: int, end: int, size: int, leaves: Sequence[bytes], proof: RangeProof) -> bytes:
    """The root of the tree of ``size`` that has these leaf hashes from ``begin`` to ``end``: compare it.

    Raises:
        ProofRefused: these are not so many leaves, or the proof has another form than one for them.
    """
    if len(leaves) != end - begin:
        raise ProofRefused("these are not so many leaves", expected=f"{end - begin}", found=f"{len(leaves)}")
    return root_around(CompactRange(begin, begin).append(leaves), size, proof)


def subtrees_around(begin: int, size: int, leaves: Sequence[bytes], proof: RangeProof) -> Subtrees:
    """What inclusion proofs of these leaves are made from, without the rest of the log.

    The proof is not checked here: compare `verify_range` before.
    """
    end = begin + len(leaves)
    known = dict(zip(cover(0, begin), proof.left, strict=True))
    known |= zip(cover(end, size), proof.right, strict=True)
    return Subtrees(leaves, begin, known)
