"""Proof files as specified: written, read strictly, and refused when anything in them was changed."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.audit.tlog.errors import LogError, NoteRefused, ProofRefused
from holdfast.engine.audit.tlog.keys import LocalSigner
from holdfast.engine.audit.tlog.merkle import Subtrees, leaf_hash, root_of
from holdfast.engine.audit.tlog.notes import Checkpoint, Policy, Quorum, sign
from holdfast.engine.audit.tlog.proofs import Proof, format_proof, verify_proof
from holdfast.engine.audit.tlog.treeproofs import inclusion_proof

ORIGIN = "example.com/ledger"
ENTRIES = [b"entry %d" % number for number in range(1000)]
LEAVES = list(map(leaf_hash, ENTRIES))
TREE = Subtrees(LEAVES)
LOG = LocalSigner.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
CLOUD = LocalSigner.of("kms.example/1", ec.derive_private_key(7, ec.SECP256R1()))
POLICY = Policy((Quorum(1, (LOG.key,), "log"), Quorum(1, (CLOUD.key,), "clouds")))
SIZE = len(ENTRIES)
CHECKPOINT = sign(Checkpoint(ORIGIN, SIZE, root_of(LEAVES)).text, [LOG, CLOUD])


def proof_of(index: int, extra: bytes | None = None) -> bytes:
    return format_proof(index, inclusion_proof(index, SIZE, TREE), CHECKPOINT, extra)


def test_a_proof_file_has_the_lines_of_the_specification() -> None:
    lines = proof_of(738, b"an extra").decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra YW4gZXh0cmE=", "index 738"]
    assert len(lines[3]) == 44
    assert base64.b64decode(lines[3]) == leaf_hash(ENTRIES[739])
    blank = lines.index("")
    assert blank - 3 == len(Proof.parse(proof_of(738)).hashes) == 10
    assert lines[blank + 1 : blank + 3] == [ORIGIN, "1000"]
    assert proof_of(738).decode().split("\n")[1] == "index 738"


@pytest.mark.parametrize("extra", [None, b"", b"an extra"])
@pytest.mark.parametrize("index", [0, 1, 511, 512, 999])
def test_a_proof_file_proves_its_entry_and_no_other(index: int, extra: bytes | None) -> None:
    data = proof_of(index, extra)
    assert Proof.parse(data) == Proof(index, inclusion_proof(index, SIZE, TREE), CHECKPOINT, extra)
    proven = verify_proof(data, ENTRIES[index], ORIGIN, POLICY)
    assert (proven.index, proven.checkpoint.size, len(proven.verified.signed_by)) == (index, SIZE, 2)
    for entry in (ENTRIES[(index + 1) % SIZE], b"", leaf_hash(ENTRIES[index])):
        with pytest.raises(ProofRefused, match="not in the tree"):
            verify_proof(data, entry, ORIGIN, POLICY)
    with pytest.raises(NoteRefused, match="another log"):
        verify_proof(data, ENTRIES[index], "example.com/other", POLICY)


def test_a_tree_of_one_entry_has_a_proof_without_hashes() -> None:
    note = sign(Checkpoint(ORIGIN, 1, leaf_hash(b"alone")).text, [LOG, CLOUD])
    assert verify_proof(format_proof(0, (), note), b"alone", ORIGIN, POLICY).index == 0


def test_a_proof_under_another_s_checkpoint_is_refused() -> None:
    older = sign(Checkpoint(ORIGIN, 900, root_of(LEAVES[:900])).text, [LOG, CLOUD])
    forged = sign(Checkpoint(ORIGIN, SIZE, root_of(LEAVES)).text, [CLOUD])
    hashes = Proof.parse(proof_of(7)).hashes
    with pytest.raises(ProofRefused):
        verify_proof(format_proof(7, hashes, older), ENTRIES[7], ORIGIN, POLICY)
    with pytest.raises(NoteRefused, match="log"):
        verify_proof(format_proof(7, hashes, forged), ENTRIES[7], ORIGIN, POLICY)


HASH = base64.b64encode(bytes(32)).decode()
HEAD = "c2sp.org/tlog-proof@v1\n"


@pytest.mark.parametrize(
    "above",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 7\n\n",
        f"{HEAD}index 7\n",
        f"{HEAD}\n",
        f"{HEAD}{HASH}\n\n",
        f"{HEAD}index 07\n\n",
        f"{HEAD}index -7\n\n",
        f"{HEAD}index  7\n\n",
        f"{HEAD}index 7 \n\n",
        f"{HEAD}index\n\n",
        f"{HEAD}index 1_0\n\n",
        f"{HEAD}index \u0667\n\n",
        f"{HEAD}index {'9' * 5000}\n\n",
        f"{HEAD}index 7\nextra AAAA\n\n",
        f"{HEAD}extra AAA\nindex 7\n\n",
        f"{HEAD}extra AAAA\nextra AAAA\nindex 7\n\n",
        f"{HEAD}index 7\n{HASH[:-1]}\n\n",
        f"{HEAD}index 7\n{HASH[:-2]}B=\n\n",
        f"{HEAD}index 7\nAAAA\n\n",
        f"{HEAD}index 7\n {HASH}\n\n",
        f"{HEAD}index 7\r\n{HASH}\n\n",
        f"{HEAD}index 7\n" + f"{HASH}\n" * 64 + "\n",
        f"{HEAD}extra {'A' * 2_000_000}\nindex 7\n\n",
        f"{HEAD}extra {'A' * 1_400_000}\nindex 7\n\n",
    ],
)
def test_a_malformed_file_is_refused(above: str) -> None:
    with pytest.raises(ProofRefused, match="no proof file"):
        Proof.parse(above.encode() + CHECKPOINT)


def test_a_file_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(ProofRefused, match="no proof file"):
        Proof.parse(f"{HEAD}index 7".encode())


@settings(max_examples=300)
@given(st.integers(0, SIZE - 1), st.integers(0, 2**20), st.integers(0, 7))
def test_no_bit_of_a_proof_file_can_be_changed(index: int, at: int, bit: int) -> None:
    data = bytearray(proof_of(index))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(LogError):
        verify_proof(bytes(data), ENTRIES[index], ORIGIN, POLICY)
