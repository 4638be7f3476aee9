"""Signed notes and checkpoints against published examples, and against what an attacker would send instead."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.audit.tlog.errors import NoteRefused, SignerError
from holdfast.engine.audit.tlog.keys import Algorithm, LocalSigner, VerifierKey, p256_from_der
from holdfast.engine.audit.tlog.merkle import EMPTY_ROOT
from holdfast.engine.audit.tlog.notes import (
    MAX_NOTE_BYTES,
    Checkpoint,
    Note,
    Policy,
    Quorum,
    cosigned,
    sign,
    verify,
    verify_checkpoint,
)
from holdfast.errors import ConfigError

#: Of golang.org/x/mod/sumdb/note, its tests.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
#: Of the specification.
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
#: ECDSA: Rekor's key and one of its checkpoints, of the tests of transparency-dev/formats.
REKOR = (
    "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLO"
    "C96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="
)
REKOR_NOTE = (
    "Rekor\n798034\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n— rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27"
    "CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uDLet7MCoTURUCRdxwWBHHufk=\n"
)
LOG = LocalSigner.of("example.com/ledger", Ed25519PrivateKey.from_private_bytes(bytes(32)))
COSIGNERS = [LocalSigner.of(f"kms.example/{n}", ec.derive_private_key(n, ec.SECP256R1())) for n in (1, 2, 3)]
CHECKPOINT = Checkpoint("example.com/ledger", 20852163, sha256(b"root").digest())
POLICY = Policy((Quorum(1, (LOG.key,), "log"), Quorum(2, tuple(each.key for each in COSIGNERS), "cosigners")))


def keys(*texts: str) -> Policy:
    return Policy.of(*map(VerifierKey.parse, texts))


def whole() -> bytes:
    return sign(CHECKPOINT.text, [LOG, *COSIGNERS[:2]])


# -- published -------------------------------------------------------------------------------------------------------


def test_the_published_notes_verify_and_their_keys_are_written_back() -> None:
    assert verify(FOO_NOTE.encode(), keys(FOO)).note.text == "This is an example message.\n"
    both = verify((TEXT + "\n" + PETER_LINE + ENOCH_LINE).encode(), keys(ENOCH, PETER))
    assert [str(key) for key in both.signed_by] == [PETER, ENOCH]
    for text in (FOO, PETER, ENOCH, REKOR):
        assert str(VerifierKey.parse(text)) == text


def test_a_published_checkpoint_signed_by_ecdsa_verifies() -> None:
    checkpoint, verified = verify_checkpoint(REKOR_NOTE.encode(), "Rekor", keys(REKOR))
    assert (checkpoint.origin, checkpoint.size) == ("Rekor", 798034)
    assert verified.signed_by[0].algorithm is Algorithm.ECDSA_P256
    with pytest.raises(NoteRefused, match="not of this text"):
        verify(REKOR_NOTE.replace("798034", "798035").encode(), keys(REKOR))


def test_signing_gives_the_published_bytes() -> None:
    secret = Ed25519PrivateKey.from_private_bytes(base64.b64decode(PETER_SECRET)[1:])
    assert sign(TEXT, [LocalSigner.of("PeterNeumann", secret)]).decode() == TEXT + "\n" + PETER_LINE


@pytest.mark.parametrize("key", [PETER, REKOR])
def test_no_part_of_a_verifier_key_and_no_other_letter_in_it_passes(key: str) -> None:
    for start in range(len(key)):
        for end in range(start + 1, len(key) + 1, 7):
            with pytest.raises(ConfigError):
                VerifierKey.parse(key[start : end - 1])
    changed = range(len(key)) if key is PETER else range(key.index("+"), len(key))
    for at in changed:
        with pytest.raises(ConfigError):
            VerifierKey.parse(key[:at] + chr(ord(key[at]) + 1) + key[at + 1 :])


def test_keys_of_other_kinds_are_refused() -> None:
    for text in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ):
        with pytest.raises(ConfigError):
            VerifierKey.parse(text)
    with pytest.raises(ConfigError, match="secp384r1"):
        LocalSigner.of("a", ec.generate_private_key(ec.SECP384R1()))
    for curve, point in ((ec.SECP384R1(), "UncompressedPoint"), (ec.SECP256R1(), "CompressedPoint")):
        with pytest.raises(ConfigError, match="no public key"):
            VerifierKey.parse(vkey_of(ec.generate_private_key(curve).public_key(), point))
    for shown in (Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
        encoded = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ConfigError, match="P-256"):
            p256_from_der("a", encoded)


def vkey_of(key: ec.EllipticCurvePublicKey, point: str) -> str:
    """A text whose id is right, of an SPKI with its point in this form."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if point == "CompressedPoint":
        compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed
    return f"a+{sha256(der).hexdigest()[:8]}+{base64.b64encode(bytes([2]) + der).decode()}"


# -- signatures ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_verifies_by_its_policy() -> None:
    checkpoint, verified = verify_checkpoint(whole(), CHECKPOINT.origin, POLICY)
    assert checkpoint == CHECKPOINT
    assert verified.signed_by == (LOG.key, *(each.key for each in COSIGNERS[:2]))
    with pytest.raises(NoteRefused, match="another log"):
        verify_checkpoint(whole(), "example.com/other", POLICY)


def test_signatures_of_unknown_keys_are_passed_over() -> None:
    stranger = LocalSigner.of(LOG.key.name, Ed25519PrivateKey.generate())
    assert stranger.key.key_id != LOG.key.key_id
    data = bytes(cosigned(Note.parse(whole()), [stranger]))
    assert verify(data, POLICY).ignored == (LOG.key.name,)
    shared = bytes(Note.parse(data)).replace(f"— {COSIGNERS[0].key.name} ".encode(), "— somebody/else ".encode())
    assert "somebody/else" in verify(shared, Policy.of(LOG.key)).ignored, "the id alone makes no known key"


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_stripped_signature_is_missed(line: int) -> None:
    note = Note.parse(whole())
    kept = note.signatures[:line] + note.signatures[line + 1 :]
    with pytest.raises(NoteRefused, match="not signed by enough") as raised:
        verify(bytes(Note(note.text, kept)), POLICY)
    assert raised.value.where == ("cosigners" if line else "log")


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_replaced_signature_refuses_the_note(line: int) -> None:
    """Another key's under a known name and id, and a known key's of another text."""
    note = Note.parse(whole())
    other = Note.parse(sign(Checkpoint("example.com/ledger", 5, CHECKPOINT.root).text, [LOG, *COSIGNERS[:2]]))
    forger = LocalSigner.of("x", Ed25519PrivateKey.generate()).sign(note.text.encode())
    for signature in (forger, other.signatures[line].signature, note.signatures[(line + 1) % 3].signature, b"\0"):
        lines = list(note.signatures)
        lines[line] = type(lines[line])(lines[line].name, lines[line].key_id, signature)
        with pytest.raises(NoteRefused, match="not of this text"):
            verify(bytes(Note(note.text, tuple(lines))), POLICY)


def test_one_key_signing_twice_counts_once_and_a_wrong_line_beside_a_right_one_refuses() -> None:
    note = Note.parse(sign(CHECKPOINT.text, [LOG, COSIGNERS[0]]))
    again = COSIGNERS[0].sign(note.text.encode())
    twice = (*note.signatures, type(note.signatures[0])(COSIGNERS[0].key.name, COSIGNERS[0].key.key_id, again))
    with pytest.raises(NoteRefused, match="not signed by enough"):
        verify(bytes(Note(note.text, twice)), POLICY)
    wrong = type(note.signatures[0])(LOG.key.name, LOG.key.key_id, bytes(64))
    with pytest.raises(NoteRefused, match="not of this text"):
        verify(bytes(Note(note.text, (*note.signatures, wrong))), Policy.of(LOG.key))


def test_an_ed25519_key_under_the_id_of_an_ecdsa_key_does_not_pass() -> None:
    note = Note.parse(whole())
    key = COSIGNERS[0].key
    forged = LocalSigner.of(key.name, Ed25519PrivateKey.generate()).sign(note.text.encode())
    lines = [each for each in note.signatures if each.name != key.name]
    lines.append(type(lines[0])(key.name, key.key_id, forged))
    with pytest.raises(NoteRefused):
        verify(bytes(Note(note.text, tuple(lines))), POLICY)


@dataclass
class Wrong:
    """A signer whose service uses another key than it says."""

    key: VerifierKey

    def sign(self, message: bytes) -> bytes:
        return COSIGNERS[2].sign(message)


def test_what_a_signer_gives_is_verified_before_it_is_kept() -> None:
    with pytest.raises(SignerError, match=r"kms\.example/1"):
        sign(CHECKPOINT.text, [Wrong(COSIGNERS[0].key)])


def test_cosigning_again_replaces_the_key_s_own_signature() -> None:
    note = cosigned(Note.parse(whole()), [COSIGNERS[0], COSIGNERS[2]])
    assert [each.name for each in note.signatures] == [LOG.key.name, *(f"kms.example/{n}" for n in (2, 1, 3))]
    assert len(verify(bytes(note), POLICY).signed_by) == 4


def test_policies_that_trust_too_much_are_refused() -> None:
    twin = LocalSigner.of("kms.example/twin", COSIGNERS[0].private).key
    for make in (
        lambda: Policy(()),
        lambda: Policy((Quorum(0, (LOG.key,)),)),
        lambda: Quorum(2, (LOG.key,)),
        lambda: Quorum(2, (COSIGNERS[0].key, twin)),
        lambda: Quorum(2, (LOG.key, LOG.key)),
    ):
        with pytest.raises(ConfigError):
            make()


def test_keys_that_share_their_name_and_id_are_refused() -> None:
    """Of 2**32 keys of one name two do; here the one's id is set to the other's."""
    first, second = (LocalSigner.of("same", Ed25519PrivateKey.generate()).key for _ in range(2))
    assert Policy.of(first, second)
    second.__dict__["key_id"] = first.key_id
    with pytest.raises(ConfigError, match="name and id"):
        Policy.of(first, second)


# -- form ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        TEXT + "\n",
        TEXT + "\n" + PETER_LINE[:-1],
        "\x01" + TEXT + "\n" + PETER_LINE,
        TEXT + "\n" + PETER_LINE.replace("— ", "- "),
        TEXT + "\n" + PETER_LINE.replace("— ", "—  "),
        TEXT + "\n" + "— Bad Name x08go/ZJkuBS\n",
        TEXT + "\n" + "— Bad\u00a0Name x08go/ZJkuBS\n",
        TEXT + "\n" + "— Bad+Name x08go/ZJkuBS\n",
        TEXT + "\n" + "— Bad\x01Name x08go/ZJkuBS\n",
        TEXT + "\n" + "— PeterNeumann x08gow==\n",
        TEXT + "\n" + PETER_LINE.replace("AM=", "AN="),
        TEXT + "\n" + PETER_LINE.replace("\n", "\r\n"),
        TEXT + "\n" + PETER_LINE + "Unexpected line.\n",
        TEXT + "\n" + PETER_LINE + "\n",
        TEXT + "\n" + PETER_LINE * 101,
        TEXT + "\n" + "— PeterNeumann " + "A" * MAX_NOTE_BYTES + "\n",
        "\n\n" + PETER_LINE,
        "",
    ],
)
def test_a_malformed_note_is_refused(data: str) -> None:
    with pytest.raises(NoteRefused, match="no signed note"):
        verify(data.encode(), keys(PETER))
    with pytest.raises(NoteRefused, match="UTF-8"):
        verify(b"\xff" + data.encode()[: MAX_NOTE_BYTES - 1], keys(PETER))


def test_a_text_may_hold_empty_lines_and_its_signatures_begin_after_the_last() -> None:
    text = "a\n\n— not/a/signature AAAAAAAA\n\nb\n"
    assert verify(sign(text, [LOG]), Policy.of(LOG.key)).note.text == text


@pytest.mark.parametrize("text", ["", "\n", "no end", "a\tb\n", "a\0\n"])
def test_a_text_that_cannot_be_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(NoteRefused):
        sign(text, [LOG])


def test_a_checkpoint_is_written_and_read_as_specified() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    found = Checkpoint.parse(text)
    assert (found.origin, found.size, found.root[:2].hex()) == ("example.com/behind-the-sofa", 20852163, "0ac5")
    assert found.text == text
    assert Checkpoint.parse(text + "one\ntwo more\n").extensions == ("one", "two more")
    assert Checkpoint.parse(Checkpoint("o", 0, EMPTY_ROOT).text).size == 0


ROOT = base64.b64encode(CHECKPOINT.root).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"o\n1\n{ROOT}",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\nnot ended",
        f"o\n1\n{ROOT}\nx\n\ny\n",
        f"\n1\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n 1\n{ROOT}\n",
        f"o\n1_0\n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n0\n{ROOT}\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT} \n",
        "o\n1\nAAAA\n",
        "o\n1\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused, match="no checkpoint"):
        Checkpoint.parse(text)


@settings(max_examples=200)
@given(st.data())
def test_no_bit_of_a_note_can_be_changed(data: st.DataObject) -> None:
    note = bytearray(whole())
    at = data.draw(st.integers(0, 2**20)) % len(note)  # of ECDSA signatures some are shorter
    note[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NoteRefused):
        verify_checkpoint(bytes(note), CHECKPOINT.origin, POLICY)
