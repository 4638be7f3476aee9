"""Hashes, compact ranges and proofs against published vectors, against the definition, and against every mutation."""

from __future__ import annotations

import itertools
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.audit.tlog.errors import ProofRefused
from holdfast.engine.audit.tlog.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Subtrees,
    cover,
    leaf_hash,
    node_hash,
    root_of,
)
from holdfast.engine.audit.tlog.treeproofs import (
    RangeProof,
    consistency_proof,
    inclusion_proof,
    old_root,
    range_proof,
    root_around,
    subtrees_around,
    verify_consistency,
    verify_inclusion,
    verify_range,
)

#: The inputs of Certificate Transparency's own tests, and the roots of the trees of the first 1 to 8 of them.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
#: Of leaf 5 in the tree of 8.
INCLUSION = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
LEAVES = [leaf_hash(f"entry {number}".encode()) for number in range(300)]
SIZES = st.integers(0, len(LEAVES))


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256().digest()
    left = 1
    while 2 * left < len(leaves):
        left *= 2
    return sha256(b"\1" + by_definition(leaves[:left]) + by_definition(leaves[left:])).digest()


TREES = [by_definition(LEAVES[:size]) for size in range(len(LEAVES) + 1)]


def flipped(data: bytes, bit: int) -> bytes:
    at = bit % (8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


# -- vectors ---------------------------------------------------------------------------------------------------------


def test_the_published_hashes() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


def test_the_published_trees_and_proof() -> None:
    leaves = [leaf_hash(bytes.fromhex(each)) for each in INPUTS]
    assert [root_of(leaves[: size + 1]).hex() for size in range(8)] == ROOTS
    proof = inclusion_proof(5, 8, Subtrees(leaves))
    assert [each.hex() for each in proof] == INCLUSION
    verify_inclusion(leaves[5], 5, 8, proof, bytes.fromhex(ROOTS[7]))


# -- trees -----------------------------------------------------------------------------------------------------------


def test_roots_of_every_size_are_by_definition() -> None:
    assert [root_of(LEAVES[:size]) for size in range(len(LEAVES) + 1)] == TREES


@given(st.lists(SIZES, min_size=2, max_size=8))
def test_a_range_is_the_same_however_it_was_put_together(cuts: list[int]) -> None:
    cuts.sort()
    begin, end = cuts[0], cuts[-1]
    whole = CompactRange(begin, begin).append(LEAVES[begin:end])
    appended = merged = CompactRange(begin, begin)
    for start, stop in itertools.pairwise(cuts):
        appended = appended.append(LEAVES[start:stop])
        merged = merged.merge(CompactRange(start, start).append(LEAVES[start:stop]))
    assert whole == appended == merged
    subtrees = Subtrees(LEAVES)
    assert whole.hashes == tuple(subtrees(level, index) for level, index in cover(begin, end))
    assert CompactRange().append(LEAVES[:begin]).merge(whole).root == TREES[end]


def test_a_cover_is_perfect_subtrees_and_no_two_of_them_make_one() -> None:
    for begin in range(40):
        for end in range(begin, 40):
            found = list(cover(begin, end))
            starts = [index << level for level, index in found]
            ends = [(index + 1) << level for level, index in found]
            assert [begin, *ends] == [*starts, end]
            for (level, index), (next_level, _) in itertools.pairwise(found):
                assert level != next_level or index & 1


def test_memory_is_flat_however_many_leaves_pass() -> None:
    def peak(rounds: int) -> int:
        tracemalloc.start()
        tree = CompactRange()
        for _ in range(rounds):
            tree = tree.append(LEAVES[:256])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(160) < peak(16) * 1.2


def test_ranges_that_do_not_meet_or_have_other_hashes_are_refused() -> None:
    with pytest.raises(ValueError, match="from 3 on"):
        CompactRange().append(LEAVES[:3]).merge(CompactRange(4, 4))
    with pytest.raises(ValueError, match="from leaf 0"):
        _ = CompactRange(4, 4).root
    with pytest.raises(ProofRefused, match="2 of 32 bytes"):
        CompactRange(0, 3, (LEAVES[0],))
    with pytest.raises(ProofRefused):
        CompactRange(0, 1, (LEAVES[0][:31],))


def test_two_leaves_cut_elsewhere_are_not_taken_for_the_two() -> None:
    both = LEAVES[0] + LEAVES[1]
    for cut in (31, 0, 64):
        with pytest.raises(ProofRefused, match="2 of 32 bytes"):
            CompactRange().append([both[:cut], both[cut:]])
        with pytest.raises(ProofRefused, match="2 of 32 bytes"):
            verify_range(0, 2, 2, [both[:cut], both[cut:]], RangeProof((), ()))


# -- inclusion -------------------------------------------------------------------------------------------------------


def test_every_leaf_of_every_small_tree_is_proven_and_nothing_else() -> None:
    for size in range(1, 20):
        subtrees = Subtrees(LEAVES[:size])
        for index in range(size):
            proof = inclusion_proof(index, size, subtrees)
            verify_inclusion(LEAVES[index], index, size, proof, TREES[size])
            for other in range(size):
                if other != index:
                    with pytest.raises(ProofRefused):
                        verify_inclusion(LEAVES[index], other, size, proof, TREES[size])
                    with pytest.raises(ProofRefused):
                        verify_inclusion(LEAVES[other], index, size, proof, TREES[size])


@settings(max_examples=150)
@given(st.data())
def test_a_changed_inclusion_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, Subtrees(LEAVES[:size]))
    bit = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, max(len(proof) - 1, 0)))
    wrong = [
        (flipped(LEAVES[index], bit), index, size, proof, TREES[size]),
        (LEAVES[index], index, size, proof, flipped(TREES[size], bit)),
        (LEAVES[index], index, size, (*proof, LEAVES[0]), TREES[size]),
        (LEAVES[index], index, size, (LEAVES[0], *proof), TREES[size]),
        (LEAVES[index], -1, size, proof, TREES[size]),
        (LEAVES[index], size, size, proof, TREES[size]),
    ]
    if proof:
        wrong += [
            (LEAVES[index], index, size, proof[:-1], TREES[size]),
            (LEAVES[index], index, size, proof[1:], TREES[size]),
            (LEAVES[index], index, size, (*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]), TREES[size]),
            (LEAVES[index], index, size, (*proof[:at], proof[at][:-1], *proof[at + 1 :]), TREES[size]),
        ]
    if len(set(proof)) > 1:
        wrong.append((LEAVES[index], index, size, proof[::-1], TREES[size]))
    for arguments in wrong:
        with pytest.raises(ProofRefused):
            verify_inclusion(*arguments)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    """The second preimage of trees without prefixes: two leaves' hashes as an entry of a tree half as high."""
    four = root_of(LEAVES[:4])
    left, right = node_hash(*LEAVES[:2]), node_hash(*LEAVES[2:4])
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != left
    with pytest.raises(ProofRefused):
        verify_inclusion(leaf_hash(LEAVES[0] + LEAVES[1]), 0, 2, (right,), four)
    with pytest.raises(ProofRefused):
        verify_inclusion(leaf_hash(LEAVES[0] + LEAVES[1]), 0, 4, (right,), four)
    with pytest.raises(ProofRefused, match="no leaf's hash"):
        verify_inclusion(b"entry 0", 0, 1, (), b"entry 0")


# -- consistency -----------------------------------------------------------------------------------------------------


def test_every_small_tree_is_the_beginning_of_every_larger_one() -> None:
    for new in range(40):
        subtrees = Subtrees(LEAVES[:new])
        for old in range(new + 1):
            verify_consistency(old, new, TREES[old], TREES[new], consistency_proof(old, new, subtrees))


@settings(max_examples=150)
@given(st.data())
def test_a_changed_consistency_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, len(LEAVES)))
    old = data.draw(st.integers(1, new - 1))
    proof = consistency_proof(old, new, Subtrees(LEAVES[:new]))
    bit = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(proof) - 1))
    wrong = [
        (old, new, flipped(TREES[old], bit), TREES[new], proof),
        (old, new, TREES[old], flipped(TREES[new], bit), proof),
        (old, new, TREES[new], TREES[old], proof),
        (old, new, TREES[old - 1], TREES[new], proof),
        (old, new, TREES[old], TREES[new], ()),
        (old, new, TREES[old], TREES[new], proof[:-1]),
        (old, new, TREES[old], TREES[new], (*proof, LEAVES[0])),
        (old, new, TREES[old], TREES[new], (*proof[:at], flipped(proof[at], bit), *proof[at + 1 :])),
        (new, old, TREES[new], TREES[old], proof),
        (new, new, TREES[old], TREES[new], ()),
        (0, new, TREES[old], TREES[new], ()),
        (-1, new, TREES[old], TREES[new], proof),
    ]
    for arguments in wrong:
        with pytest.raises(ProofRefused):
            verify_consistency(*arguments)


# -- ranges ----------------------------------------------------------------------------------------------------------


def test_a_range_proof_gives_the_new_root_and_the_old_one() -> None:
    for size in range(24):
        subtrees = Subtrees(LEAVES[:size])
        for begin in range(size + 1):
            for end in range(begin, size + 1):
                proof = range_proof(begin, end, size, subtrees)
                assert verify_range(begin, end, size, LEAVES[begin:end], proof) == TREES[size]
                assert old_root(proof.left, begin) == TREES[begin]
                assert RangeProof.parse(bytes(proof), begin, end, size) == proof


@given(st.data())
def test_inclusion_is_proven_from_a_range_and_its_proof_alone(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    begin = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(begin + 1, size))
    index = data.draw(st.integers(begin, end - 1))
    whole = Subtrees(LEAVES[:size])
    part = subtrees_around(begin, size, LEAVES[begin:end], range_proof(begin, end, size, whole))
    assert inclusion_proof(index, size, part) == inclusion_proof(index, size, whole)


@settings(max_examples=150)
@given(st.data())
def test_a_changed_range_gives_another_root_or_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, len(LEAVES)))
    begin = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(begin + 1, size))
    proof = range_proof(begin, end, size, Subtrees(LEAVES[:size]))
    leaves = LEAVES[begin:end]
    bit, at = data.draw(st.integers(0, 255)), data.draw(st.integers(0, end - begin - 1))

    def is_refused(begin: int, end: int, size: int, leaves: list[bytes], proof: RangeProof, root: bytes) -> bool:
        try:
            return verify_range(begin, end, size, leaves, proof) != root
        except (ProofRefused, ValueError):
            return True

    root = TREES[size]
    assert not is_refused(begin, end, size, leaves, proof, root)
    changed = [*leaves[:at], flipped(leaves[at], bit), *leaves[at + 1 :]]
    assert is_refused(begin, end, size, changed, proof, root)
    assert is_refused(begin, end, size, leaves[:-1], proof, root)
    assert is_refused(begin, end - 1, size, leaves[:-1], proof, root)
    assert is_refused(begin, end, size, [*leaves, leaves[0]], proof, root)
    assert is_refused(begin, size + 1, size, leaves, proof, root)
    if len(leaves) > 1:
        assert is_refused(begin, end, size, [leaves[1], leaves[0], *leaves[2:]], proof, root)
    for left, right in (
        (tuple(flipped(each, bit) for each in proof.left[:1]) + proof.left[1:], proof.right),
        (proof.left, tuple(flipped(each, bit) for each in proof.right[:1]) + proof.right[1:]),
        (proof.left[:-1], proof.right),
        (proof.left, proof.right[:-1]),
        (proof.right, proof.left),
    ):
        if (left, right) != (proof.left, proof.right):
            assert is_refused(begin, end, size, leaves, RangeProof(left, right), root)


def test_bytes_of_another_range_proof_are_refused() -> None:
    data = bytes(range_proof(5, 9, 20, Subtrees(LEAVES[:20])))
    for wrong, begin, end, size in (
        (data[:-1], 5, 9, 20),
        (data[:-32], 5, 9, 20),
        (data + data[:32], 5, 9, 20),
        (data, 5, 9, 21),
        (data, 9, 5, 20),
        (data, 5, 21, 20),
        (data, -1, 9, 20),
    ):
        with pytest.raises(ProofRefused):
            RangeProof.parse(wrong, begin, end, size)


def test_a_run_beyond_the_tree_is_refused() -> None:
    with pytest.raises(ProofRefused, match="beyond"):
        root_around(CompactRange().append(LEAVES[:3]), 2, RangeProof((), ()))
