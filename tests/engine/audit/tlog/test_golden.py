"""Golden files of the log's formats: read by every later version, and written with the same bytes."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.engine.audit.tlog.keys import LocalSigner, VerifierKey
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT, Subtrees, leaf_hash, root_of
from holdfast.engine.audit.tlog.notes import Checkpoint, Note, Policy, Quorum, cosigned, sign, verify_checkpoint
from holdfast.engine.audit.tlog.proofs import Proof, format_proof, verify_proof
from holdfast.engine.audit.tlog.tilecheck import check_tiles
from holdfast.engine.audit.tlog.tiles import append_tiles
from holdfast.engine.audit.tlog.treeproofs import RangeProof, inclusion_proof, old_root, range_proof, verify_range
from holdfast.engine.objectstore import memory_store

GOLDEN = Path(__file__).parents[3] / "golden" / "ledger-log"
ORIGIN = "example.com/ledger"
#: A log of 700 entries, of which the last 300 came in one run; the proof is of entry 600.
ENTRIES = [f"entry {number}".encode() for number in range(700)]
LEAVES = list(map(leaf_hash, ENTRIES))
BEGIN, SIZE, INDEX = 400, 700, 600
#: Known to all.
LOG = LocalSigner.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEYS = tuple(map(VerifierKey.parse, (GOLDEN / "keys").read_text().split()))
POLICY = Policy((Quorum(2, KEYS),))
NOTE = (GOLDEN / "checkpoint").read_bytes()
ROOT = root_of(LEAVES)


def test_the_golden_checkpoint_and_proofs_verify() -> None:
    checkpoint, verified = verify_checkpoint(NOTE, ORIGIN, POLICY)
    assert (checkpoint.size, checkpoint.root) == (SIZE, ROOT)
    assert verified.signed_by == KEYS
    assert verify_proof((GOLDEN / "600.tlog-proof").read_bytes(), ENTRIES[INDEX], ORIGIN, POLICY).index == INDEX
    proof = RangeProof.parse((GOLDEN / "range").read_bytes(), BEGIN, SIZE, SIZE)
    assert verify_range(BEGIN, SIZE, SIZE, LEAVES[BEGIN:], proof) == ROOT
    assert old_root(proof.left, BEGIN) == root_of(LEAVES[:BEGIN])


def test_the_same_log_writes_the_golden_bytes() -> None:
    """But for the ECDSA signature, which is another one each time it is made."""
    assert str(KEYS[0]) == str(LOG.key)
    note = Note.parse(sign(Checkpoint(ORIGIN, SIZE, ROOT).text, [LOG]))
    assert note == Note(Note.parse(NOTE).text, Note.parse(NOTE).signatures[:1])
    assert bytes(Note.parse(NOTE)) == NOTE
    assert cosigned(Note.parse(NOTE), []) == Note.parse(NOTE)
    proof = format_proof(INDEX, inclusion_proof(INDEX, SIZE, Subtrees(LEAVES)), NOTE, b"of a test")
    assert proof == (GOLDEN / "600.tlog-proof").read_bytes()
    assert Proof.parse(proof).checkpoint == NOTE
    assert bytes(range_proof(BEGIN, SIZE, SIZE, Subtrees(LEAVES))) == (GOLDEN / "range").read_bytes()


def test_the_golden_tiles_are_its_tree_and_are_written_so() -> None:
    held = {
        path.relative_to(GOLDEN).as_posix(): path.read_bytes()
        for path in sorted(GOLDEN.rglob("tile/**/*"))
        if path.is_file()
    }
    assert check_tiles(held.get, SIZE, ROOT) == []
    store = memory_store()
    append_tiles(store, 0, EMPTY_ROOT, [LEAVES])
    assert {info.key: store.get(info.key) for info in store.list()} == held
