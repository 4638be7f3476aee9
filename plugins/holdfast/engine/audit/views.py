"""One event as OCSF beside its proof: made of its raw bytes, so that a checker makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from holdfast import __version__
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.normalisers import kubernetes, normaliser
from holdfast.engine.audit.ocsf.schema import SCHEMA, as_event
from holdfast.engine.audit.problems import Answer, Kind, Problem, tampered
from holdfast.engine.snapshot.documents import Document, canonical

VIEW, SOURCE = "event.ocsf.json", "event.source.json"
FORMAT = "holdfast.proof-source/1"
_ODD = (pa.ArrowException, ValueError, TypeError, LookupError, AttributeError, RecursionError)


class ProofSource(Document):
    """`SOURCE`: how the view came about. Nothing vouches for it: it says how to make the view again."""

    format: Literal["holdfast.proof-source/1"] = "holdfast.proof-source/1"
    version: str = __version__
    kind: str


def view_files(kind: str, raw: bytes, columns: Mapping[str, Any]) -> dict[str, bytes]:
    """`SOURCE`, and `VIEW` where this version makes it of the bytes, by name.

    Args:
        kind: of the event's source.
        columns: the event as it was sealed; of Kubernetes its cluster is taken from there.
    """
    made = _made(kind, raw, columns)
    files = {SOURCE: ProofSource(kind=kind).to_json()}
    return files if made is None else {**files, VIEW: made}


def check_view(files: Mapping[str, bytes], raw: bytes, answer: Answer) -> None:
    """Whether the view is what the bytes give.

    Args:
        files: those of `SOURCE` and `VIEW` that are there.
        raw: the event's bytes.
        answer: gets what is wrong, and notes.
    """
    try:
        said = _parsed(files.get(SOURCE))
        found = _event(files.get(VIEW))
        made = _made(said.kind, raw, found)
    except Tampered as error:
        answer.add(tampered("view-differs", error.what, error.where or VIEW, error.expected, error.found))
        return
    if made is None and VIEW not in files:
        answer.notes.append(f"There is no view of the event as OCSF: this version makes none of the kind {said.kind}")
    elif made != files.get(VIEW) and said.version == __version__:
        what = "the event as OCSF is not what its bytes give"
        answer.add(tampered("view-differs", what, VIEW, f"the columns of an event of {said.kind}"))
    elif made != files.get(VIEW):
        what = f"the event as OCSF is not what version {__version__} makes of its bytes, which are proven"
        answer.add(Problem(Kind.UNKNOWN, "view-of-another-version", what, VIEW, said.version, __version__))
    elif said.kind == "kubernetes":
        answer.notes.append(f"The cluster's name in {VIEW} is not proven: the event's bytes lack it")


def _parsed(data: bytes | None) -> ProofSource:
    if data is None:
        raise Tampered("a file is missing", where=SOURCE)
    try:
        said = ProofSource.model_validate_json(data)
    except (ValidationError, RecursionError):
        said = None
    if said is None or said.to_json() != data:
        raise Tampered("this is no source of a proof", where=SOURCE, expected=FORMAT, found=repr(data[:80]))
    return said


def _event(data: bytes | None) -> dict[str, Any]:
    try:
        event = {} if data is None else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Tampered("this is no event", where=VIEW, expected="a JSON object", found=str(error)[:200]) from None
    if not isinstance(event, dict):
        raise Tampered("this is no event", where=VIEW, expected="a JSON object", found=repr(data[:80] if data else b""))
    return event


def _made(kind: str, raw: bytes, columns: Mapping[str, Any]) -> bytes | None:
    """The view by this version; None: it makes none of this kind, or of these bytes."""
    normalise = kubernetes(_cluster(columns)) if kind == "kubernetes" else normaliser(kind)
    if normalise is None:
        return None
    try:
        (row,) = normalise(pa.array([raw], pa.large_binary())).cast(SCHEMA).to_pylist()
        return canonical(json.loads(json.dumps(as_event(row))))
    except _ODD:
        return None


def _cluster(event: Mapping[str, Any]) -> str:
    found: Any = event
    for name in ("cloud", "account", "uid"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
