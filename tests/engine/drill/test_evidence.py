"""Evidence is checked to the byte, offline."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from holdfast.engine.drill import dsse
from holdfast.engine.drill.evidence import (
    PAYLOAD_TYPE,
    EvidenceInvalid,
    load_or_create_key,
    load_public_key,
    verify_evidence,
    write_evidence,
)
from holdfast.errors import ConfigError
from sample_journal import refused_journal, sample_journal

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def evidence(tmp_path):
    return write_evidence(sample_journal(), tmp_path / "evidence", KEY)


def test_what_was_written_verifies(evidence):
    for path in (evidence.journal.parent, *evidence.all()):
        found = verify_evidence(path)
        assert (found.drill_id, found.status, found.pinned) == ("20260301T120000Z-abc123", "completed", False)
    assert "not pinned" in found.signer
    assert found.key_id == hashlib.sha256(KEY.public_key().public_bytes_raw()).hexdigest()
    assert verify_evidence(evidence.journal, public_key=KEY.public_key()).pinned


@pytest.mark.parametrize("name", ["journal", "report", "envelope"])
def test_any_changed_byte_is_noticed(evidence, name):
    file = getattr(evidence, name)
    good = file.read_bytes()
    # Every byte of the envelope, where a change could hide in its spelling; of the hashed files a spread of them.
    step = 1 if name == "envelope" else max(1, len(good) // 120)
    for index in {*range(0, len(good), step), len(good) - 1}:
        for change in (1, 0x20):
            file.write_bytes(good[:index] + bytes([good[index] ^ change]) + good[index + 1 :])
            with pytest.raises(EvidenceInvalid):
                verify_evidence(file)
    for bad in (good + b"\n", good + b" ", good[:-1], b"", good[1:]):
        file.write_bytes(bad)
        with pytest.raises(EvidenceInvalid):
            verify_evidence(file)
    file.write_bytes(good)
    verify_evidence(file)


@pytest.mark.parametrize("name", ["journal", "report", "envelope"])
def test_a_missing_file_is_noticed(evidence, name):
    getattr(evidence, name).unlink()
    with pytest.raises(EvidenceInvalid, match="cannot be read"):
        verify_evidence(evidence.journal.parent)


def test_another_key_is_refused(evidence):
    with pytest.raises(EvidenceInvalid, match="another key"):
        verify_evidence(evidence.journal, public_key=Ed25519PrivateKey.generate().public_key())


def test_evidence_made_anew_with_another_key_is_told_by_a_trusted_key_alone(evidence):
    forged = sample_journal(rto_seconds={"from_fault": 0.01})
    write_evidence(forged, evidence.journal.parent, Ed25519PrivateKey.generate())
    assert verify_evidence(evidence.journal).pinned is False
    with pytest.raises(EvidenceInvalid):
        verify_evidence(evidence.journal, public_key=KEY.public_key())


def test_a_statement_that_names_another_signer_or_other_files_is_refused(evidence):
    envelope = dsse.parse(evidence.envelope.read_bytes(), where="")
    statement = json.loads(envelope.payload)
    other = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    for change in (
        {"signer": {"algorithm": "Ed25519", "public_key": other}},
        {"files": statement["files"][:1]},
        {"files": [{**statement["files"][0], "name": "../../etc/passwd"}, statement["files"][1]]},
        {"format": "holdfast.evidence/2"},
        {"drill_id": "another"},
    ):
        payload = json.dumps({**statement, **change}).encode()
        evidence.envelope.write_bytes(dsse.sign(payload, PAYLOAD_TYPE, KEY))
        for trusted in (None, KEY.public_key()):
            with pytest.raises(EvidenceInvalid):
                verify_evidence(evidence.journal, public_key=trusted)


def test_a_signature_over_another_type_is_refused(evidence):
    payload = dsse.parse(evidence.envelope.read_bytes(), where="").payload
    evidence.envelope.write_bytes(dsse.sign(payload, "application/vnd.in-toto+json", KEY))
    with pytest.raises(EvidenceInvalid, match="something else"):
        verify_evidence(evidence.journal)


def test_nothing_there_is_an_error_that_says_so(tmp_path):
    with pytest.raises(EvidenceInvalid, match="no evidence here"):
        verify_evidence(tmp_path / "nowhere")
    with pytest.raises(EvidenceInvalid):
        verify_evidence(tmp_path)


def test_a_refused_drill_is_signed_too(tmp_path):
    write_evidence(refused_journal(), tmp_path, KEY)
    assert verify_evidence(tmp_path).status == "refused"


def test_the_encoding_is_that_of_the_specification():
    # The example of the DSSE protocol description.
    assert (
        dsse.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_another_implementation_verifies_the_signature(evidence):
    """With nothing of this code: the DSSE protocol by hand."""
    document = json.loads(evidence.envelope.read_bytes())
    payload = base64.b64decode(document["payload"])
    statement = json.loads(payload)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(statement["signer"]["public_key"]))
    kind = document["payloadType"].encode()
    signed = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    key.verify(base64.b64decode(document["signatures"][0]["sig"]), signed)
    for entry in statement["files"]:
        assert hashlib.sha256((evidence.journal.parent / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    environ = {"HOLDFAST_STATE": str(tmp_path / "state")}
    first, second = load_or_create_key(environ), load_or_create_key(environ)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    files = list((tmp_path / "state").iterdir())
    assert [f.name for f in files] == ["signing-key.pem"]
    assert files[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("state", ["~nobody-of-this-name/state", "file/state"])
def test_where_no_key_can_be_made_it_is_said(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="HOLDFAST_SIGNING_KEY"):
        load_or_create_key({"HOLDFAST_STATE": state})


def test_a_given_key_is_used_by_path_or_text(tmp_path):
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "k.pem").write_bytes(pem)
    for given in (str(tmp_path / "k.pem"), pem.decode()):
        assert load_or_create_key({"HOLDFAST_SIGNING_KEY": given}).private_bytes_raw() == KEY.private_bytes_raw()
    for bad in (str(tmp_path / "none.pem"), "-----BEGIN nonsense"):
        with pytest.raises(ConfigError) as error:
            load_or_create_key({"HOLDFAST_SIGNING_KEY": bad})
        assert "nonsense" not in str(error.value)


def test_a_trusted_key_is_read_in_its_usual_forms(tmp_path):
    public = KEY.public_key()
    raw = public.public_bytes_raw()
    (tmp_path / "pub.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for given in (tmp_path / "pub.pem", raw.hex(), base64.b64encode(raw).decode()):
        assert load_public_key(given).public_bytes_raw() == raw
    for bad in ("zz", tmp_path / "none", "x" * 44):
        with pytest.raises(ConfigError):
            load_public_key(bad)
