"""Evidence: journal, report and a signed statement over both, checkable offline.

``evidence.dsse.json`` is a DSSE envelope around a statement that names each file with its SHA-256 and size and the
key that signed. The journal is RFC 8785 canonical JSON. docs/formats.md has every byte.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.engine.drill import dsse
from holdfast.engine.drill.airflow_journal import FORMAT as AIRFLOW_FORMAT
from holdfast.engine.drill.airflow_journal import AirflowDrillJournal
from holdfast.engine.drill.airflow_report import render_airflow_report
from holdfast.engine.drill.keys import load_or_create_key, load_public_key
from holdfast.engine.drill.report import render_report
from holdfast.engine.drill.restore_journal import FORMAT as RESTORE_FORMAT
from holdfast.engine.drill.restore_journal import JudgedJournal, RestoreDrillJournal
from holdfast.engine.drill.restore_report import render_restore_report
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import ConfigError, HoldfastError

__all__ = [
    "EvidenceInvalid",
    "EvidencePaths",
    "Verification",
    "load_or_create_key",
    "load_public_key",
    "verify_evidence",
    "write_evidence",
]

PAYLOAD_TYPE = "application/vnd.holdfast.evidence+json"
FORMAT = "holdfast.evidence/1"
DRILL_FORMAT = "holdfast.drill-journal/1"
#: Of the journals that have a verdict of their own.
_JOURNALS: Mapping[str, type[JudgedJournal]] = {
    RESTORE_FORMAT: RestoreDrillJournal,
    AIRFLOW_FORMAT: AirflowDrillJournal,
}
_REPORTS = {RESTORE_FORMAT: render_restore_report, AIRFLOW_FORMAT: render_airflow_report}
JOURNAL, REPORT, ENVELOPE = "journal.json", "report.html", "evidence.dsse.json"


class EvidenceInvalid(HoldfastError):
    """The evidence does not prove what it says: something is missing, changed, or signed by somebody else."""


@dataclass(frozen=True)
class EvidencePaths:
    """The files of one piece of evidence."""

    journal: Path
    report: Path
    envelope: Path

    @classmethod
    def of(cls, folder: Path) -> EvidencePaths:
        return cls(folder / JOURNAL, folder / REPORT, folder / ENVELOPE)

    def all(self) -> tuple[Path, ...]:
        """The envelope last, as they are written."""
        return (self.journal, self.report, self.envelope)


@dataclass(frozen=True)
class Verification:
    """What holds: these files are byte for byte what the owner of this key signed."""

    folder: Path
    drill_id: str
    status: str
    key_id: str
    #: Whether the key is one the caller trusts. If not, anybody could have made it.
    pinned: bool
    files: tuple[str, ...]
    #: Of the journal: which kind of drill it is of.
    journal_format: str = DRILL_FORMAT
    #: Of a restore drill, or of Airflow, what its claims come to: ``pass``, ``fail`` or ``aborted``.
    verdict: str | None = None

    @property
    def signer(self) -> str:
        """For people."""
        return f"signed by key {self.key_id}, {'the trusted key' if self.pinned else 'not pinned'}"


def require_writable(folder: Path) -> None:
    """Asked before a drill begins. Raises ConfigError: evidence cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            "the evidence cannot be written here",
            where=str(folder),
            expected="a folder that can be written, or made",
            found=str(error.strerror),
            fix="Name another one; nothing was restored",
        ) from None


def write_evidence(journal: Mapping[str, Any], folder: Path, key: Ed25519PrivateKey) -> EvidencePaths:
    """Write a journal, its report and the signed statement over both into a folder; earlier evidence there is replaced.

    Args:
        journal: JSON-able, as `as_document` of one of the journals gives it.
    """
    document = canonical(dict(journal))
    render = _REPORTS.get(str(journal.get("format")), render_report)
    # The report is made from the very bytes that are signed: no number can be in one and not in the other.
    report = render(json.loads(document), key_id=dsse.key_id_of(key.public_key())).encode()
    paths = EvidencePaths.of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths.envelope.unlink(missing_ok=True)  # while the files change, nothing vouches for them
    _replace(paths.journal, document)
    _replace(paths.report, report)
    statement = {
        "format": FORMAT,
        "drill_id": journal["drill_id"],
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            for name, data in ((JOURNAL, document), (REPORT, report))
        ],
        "signer": {
            "algorithm": "Ed25519",
            "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        },
    }
    _replace(paths.envelope, dsse.sign(canonical(statement), PAYLOAD_TYPE, key))
    return paths


def verify_evidence(folder_or_journal: Path | str, *, public_key: Ed25519PublicKey | None = None) -> Verification:
    """Check evidence offline.

    Args:
        folder_or_journal: the folder, or any of its three files.
        public_key: a key the caller trusts (see `load_public_key`); without one the signature is checked against the
            key the evidence itself names, which shows that nothing was changed since, not who made it.

    Raises:
        EvidenceInvalid: a file is missing, a byte was changed, another key signed, or the verdict of a restore drill is
            not what its claims come to.
    """
    given = Path(folder_or_journal)
    folder = given if given.is_dir() else given.parent
    if not given.exists():
        raise EvidenceInvalid(
            "there is no evidence here",
            where=str(given),
            expected="the folder a drill wrote, or its journal.json",
            found="nothing",
            fix="Name the folder given as the drill's output",
        )
    paths = EvidencePaths.of(folder)
    where = str(paths.envelope)
    try:
        envelope = dsse.parse(_read(paths.envelope), where=where)
        statement, key = _statement(envelope.payload, where)
        dsse.check(envelope, PAYLOAD_TYPE, public_key or key, where=where)
    except dsse.EnvelopeInvalid as error:
        raise _invalid(error.what, where, error.expected, error.found) from None
    if public_key is not None and key.public_bytes_raw() != public_key.public_bytes_raw():
        raise _invalid(
            "the statement names another signer than the one that signed",
            where,
            dsse.key_id_of(public_key),
            dsse.key_id_of(key),
        )
    for entry in statement["files"]:
        _check_file(folder / entry["name"], entry["sha256"], entry["size_bytes"])
    try:
        journal = json.loads(_read(paths.journal))
    except (ValueError, RecursionError):
        journal = None
    if not isinstance(journal, dict):
        raise _invalid("the journal cannot be read", where, "a JSON object", "something else")
    if journal.get("drill_id") != statement["drill_id"]:
        raise _invalid(
            "the statement is about another drill", where, statement["drill_id"], str(journal.get("drill_id"))
        )
    return Verification(
        folder=folder,
        drill_id=_text(statement["drill_id"]),
        status=_text(journal.get("status")),
        key_id=envelope.key_id,
        pinned=public_key is not None,
        files=tuple(entry["name"] for entry in statement["files"]),
        journal_format=_text(journal.get("format", DRILL_FORMAT)),
        verdict=_verdict(journal, str(paths.journal)),
    )


def _verdict(journal: dict[str, Any], where: str) -> str | None:
    """Of a restore drill or a drill of Airflow the verdict, judged anew from its claims; of another ``None``.

    Raises EvidenceInvalid.
    """
    found = journal.get("format", DRILL_FORMAT)
    if found == DRILL_FORMAT:
        return None
    if not isinstance(found, str) or found not in _JOURNALS:
        expected = " or ".join((DRILL_FORMAT, *_JOURNALS))
        raise _invalid("the journal is of a format this version does not know", where, expected, found)
    try:
        return _JOURNALS[found].read(journal).verdict
    except ValueError as error:
        raise _invalid("the journal does not bear its verdict out", where, found, str(error)) from None


def _statement(payload: bytes, where: str) -> tuple[dict[str, Any], Ed25519PublicKey]:
    try:
        statement = json.loads(payload)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(statement["signer"]["public_key"], validate=True))
        names = [entry["name"] for entry in statement["files"]]
        complete = (
            statement["format"] == FORMAT
            and isinstance(statement["drill_id"], str)
            and all(isinstance(e["sha256"], str) and isinstance(e["size_bytes"], int) for e in statement["files"])
        )
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        complete, names = False, []
    if not complete or names != [JOURNAL, REPORT]:
        raise _invalid(
            "the statement is not one of this format", where, f"{FORMAT} over {JOURNAL} and {REPORT}", "something else"
        )
    return statement, key


def _check_file(file: Path, sha256: str, size_bytes: int) -> None:
    data = _read(file)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise _invalid(
            "the file is not the one that was signed",
            str(file),
            f"sha256 {sha256}, {size_bytes} bytes",
            f"sha256 {found}, {len(data)} bytes",
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _invalid(
            "a file of the evidence cannot be read", str(file), "the file the drill wrote", str(error.strerror)
        ) from None


def _text(value: object) -> str:
    """For people: JSON may have halves of characters in it, which cannot be shown."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _invalid(what: str, where: str, expected: object, found: object) -> EvidenceInvalid:
    return EvidenceInvalid(
        what,
        where=where,
        expected=_text(expected)[:500],
        found=_text(found)[:500],
        fix="Fetch the evidence again from a site's bucket (evidence/<drill>/) and verify that copy",
    )


def _replace(file: Path, data: bytes) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(file)
