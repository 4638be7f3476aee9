"""Evidence that anybody could have written: whatever JSON it holds, it verifies or it is invalid, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.drill import dsse
from holdfast.engine.drill.evidence import ENVELOPE, FORMAT, JOURNAL, PAYLOAD_TYPE, REPORT, EvidenceInvalid
from holdfast.engine.drill.evidence import verify_evidence as verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
JOURNALS = [
    json.loads((GOLDEN / folder / JOURNAL).read_bytes()) for folder in ("evidence", "restore-drill", "airflow-drill")
]
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800") | st.just(10**400)
VALUES = st.recursive(_LEAVES, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3))


def statement_over(files: dict[str, bytes], drill_id: object) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "drill_id": drill_id,
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            for name, data in files.items()
        ],
        "signer": {
            "algorithm": "Ed25519",
            "public_key": base64.b64encode(KEY.public_key().public_bytes_raw()).decode(),
        },
    }


def write(folder: Path, files: dict[str, bytes], statement: object) -> Path:
    """Evidence with a good signature, whatever it says."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / ENVELOPE).write_bytes(dsse.sign(json.dumps(statement).encode(), PAYLOAD_TYPE, KEY))
    return folder


def with_journal(folder: Path, journal: object, drill_id: object = "x") -> Path:
    files = {JOURNAL: json.dumps(journal).encode(), REPORT: b"<html>"}
    return write(folder, files, statement_over(files, drill_id))


def told(folder: Path) -> None:
    """Fails by any other error than `EvidenceInvalid`, and by words that no terminal can show."""
    try:
        found = verify(folder)
        words = f"{found.drill_id} {found.status} {found.journal_format} {found.verdict} {found.signer}"
    except EvidenceInvalid as error:
        words = str(error)
    assert words.encode()


def places(document: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield at
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    for key, value in inside:
        yield from places(value, (*at, key))


def replaced(document: Any, place: tuple[Any, ...], value: object) -> Any:
    """The document with something else at a place."""
    if not place:
        return value
    changed = deepcopy(document)
    at = changed
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.mark.parametrize("value", [[], {}, [[]], {"a": 1}, 1, None, True, "holdfast.drill-journal/2"], ids=ascii)
def test_a_journal_of_a_format_that_is_no_known_text_is_invalid(tmp_path: Path, value: object) -> None:
    with pytest.raises(EvidenceInvalid, match="a format this version does not know"):
        verify(with_journal(tmp_path, {"drill_id": "x", "format": value}))


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda journal: journal["format"].partition("/")[0])
@pytest.mark.parametrize("value", [None, True, 7, 0.5, "\ud800", [], {}, [[]], [1], {"": []}], ids=ascii)
def test_a_value_in_each_field_of_a_journal(tmp_path: Path, journal: dict[str, Any], value: object) -> None:
    for field in journal:
        told(with_journal(tmp_path, {**journal, field: value}, journal["drill_id"]))


def test_names_that_are_no_unicode_are_told_in_characters_that_are(tmp_path: Path) -> None:
    folder = with_journal(tmp_path, {"drill_id": "\ud800", "status": "\udfff"}, "\ud800")
    assert (verify(folder).drill_id, verify(folder).status) == ("\\ud800", "\\udfff")


@given(journal=VALUES)
def test_any_journal(folder: Path, journal: object) -> None:
    told(with_journal(folder, journal))


@given(data=st.data(), value=VALUES)
def test_any_value_anywhere_in_a_journal(folder: Path, data: st.DataObject, value: object) -> None:
    journal = data.draw(st.sampled_from(JOURNALS))
    place = data.draw(st.sampled_from([one for one in places(journal) if len(one) < 4]))
    told(with_journal(folder, replaced(journal, place, value), journal["drill_id"]))


@given(journal=st.binary())
def test_any_bytes_of_a_journal(folder: Path, journal: bytes) -> None:
    files = {JOURNAL: journal, REPORT: b"<html>"}
    told(write(folder, files, statement_over(files, "x")))


@given(data=st.data(), value=VALUES)
def test_any_value_anywhere_in_a_statement(folder: Path, data: st.DataObject, value: object) -> None:
    files = {JOURNAL: b'{"drill_id": "x"}', REPORT: b"<html>"}
    statement = statement_over(files, "x")
    place = data.draw(st.sampled_from(list(places(statement))))
    told(write(folder, files, replaced(statement, place, value)))


@given(data=st.data(), value=VALUES)
def test_any_value_anywhere_in_an_envelope(folder: Path, data: st.DataObject, value: object) -> None:
    with_journal(folder, {"drill_id": "x"})
    envelope = json.loads((folder / ENVELOPE).read_bytes())
    place = data.draw(st.sampled_from(list(places(envelope))))
    (folder / ENVELOPE).write_text(json.dumps(replaced(envelope, place, value), separators=(",", ":")))
    told(folder)


@pytest.mark.parametrize(
    "deep", [b"[" * 100_000, b'{"a":' * 100_000, b'{"drill_id":"x","a":' + b"[" * 900 + b"]" * 900 + b"}"], ids=len
)
def test_deep_json_in_any_file(tmp_path: Path, deep: bytes) -> None:
    files = {JOURNAL: deep, REPORT: b"<html>"}
    told(write(tmp_path, files, statement_over(files, "x")))
    (tmp_path / ENVELOPE).write_bytes(dsse.sign(deep, PAYLOAD_TYPE, KEY))
    told(tmp_path)
    (tmp_path / ENVELOPE).write_bytes(deep)
    told(tmp_path)
