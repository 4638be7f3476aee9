"""Which of Holdfast's own objects are records, where they lie, and how each proves itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from holdfast.errors import HoldfastError

#: A check of a record's bytes under its key; raises HoldfastError or ValueError when they are not what was written.
Check = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    Args:
        name: for people and metadata.
        pattern: of the whole key.
        once: written by one writer with the same bytes at every site, so that copies that differ show a change. Of the
            others two writers may each have written their own, each with its ``write_id``, e.g. a machine that was
            cut off and went on.
        each_site: every site may have one of its own under the same key.
        lines: each line of the object is a record.
        check: how a record proves itself.
    """

    name: str
    pattern: re.Pattern[str]
    once: bool
    check: Check
    lines: bool = False
    each_site: bool = False


def kind_of(key: str) -> Kind | None:
    """What lies at a key; ``None`` for what is no record: data, manifests, blobs, hints."""
    return next((kind for kind in KINDS if kind.pattern.fullmatch(key)), None)


def _commit(key: str, data: bytes) -> None:
    from holdfast.engine.snapshot.records import parse_record

    parse_record(data, key=key, where=key)


def _fork(key: str, data: bytes) -> None:
    from holdfast.engine.snapshot.lineage import EpochFork

    fork = EpochFork.model_validate_json(data)
    _equal(key, f"{_subject(key)}/epochs/{fork.epoch:06d}.json")
    if fork.to_json() != data:
        raise ValueError("it is not in its one spelling")


def _receipt(key: str, data: bytes) -> None:
    from holdfast.engine.checkpoint.replicate import CheckpointReceipt, receipt_key
    from holdfast.engine.snapshot.receipts import Receipt

    if _object(data).get("format") == "holdfast.checkpoint-receipt/1":
        found = CheckpointReceipt.model_validate_json(data)
        _equal(key, receipt_key(found.run, found.manifest, found.site))
    else:
        _equal(key, Receipt.model_validate_json(data).key)


def _checkpoint(key: str, data: bytes) -> None:
    from holdfast.engine.checkpoint.format import CheckpointManifest

    manifest = CheckpointManifest.model_validate_json(data)
    _equal(key, manifest.key)
    if manifest.vouches_for_itself is False:
        raise ValueError("its seal does not fit")


def _tombstone(key: str, data: bytes) -> None:
    from holdfast.engine.replication.tombstones import Expired, Spared, Tombstone

    forms: Mapping[object, type[Expired] | type[Spared] | type[Tombstone]] = {
        "holdfast.tombstone/1": Tombstone,
        "holdfast.tombstone-spared/1": Spared,
        "holdfast.expired/1": Expired,
    }
    form = forms.get(_object(data).get("format"))
    if form is None:
        return
    document = form.model_validate_json(data)
    _equal(key, document.key)
    if not isinstance(document, Expired) and document.content_id() != document.id:
        raise ValueError("its content gives another id")


def _quality(key: str, data: bytes) -> None:
    from holdfast.engine.quality.results import QualityResult

    result = QualityResult.model_validate_json(data)
    _equal(key, result.key)
    if result.to_json() != data:
        raise ValueError("it is not in its one spelling")


def _json(_key: str, data: bytes) -> None:
    _object(data)


def _decisions(_key: str, data: bytes) -> None:
    if data and not data.endswith(b"\n"):
        raise ValueError("its last line is not whole")
    for line in data.split(b"\n")[:-1]:
        if _object(line).get("format") != "holdfast.decision/1":
            raise ValueError("a line is no holdfast.decision/1")


def _cost(key: str, data: bytes) -> None:
    found = _object(data)
    digest = hashlib.sha256(data).hexdigest()
    if found.get("format") != "holdfast.cost-report/1" or not key.startswith(f"costs/{found.get('period')}/"):
        raise ValueError("it is no holdfast.cost-report/1 of its period")
    if not key.endswith(f"-{digest}.json"):
        raise ValueError(f"its bytes have the digest {digest}")


def _entry(key: str, data: bytes) -> None:
    from holdfast.engine.vault import layout
    from holdfast.engine.vault.log import parse_entry

    entry = parse_entry(data, key)
    if layout.sequence_of(key) != entry.sequence:
        raise ValueError(f"it is entry {entry.sequence}")


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _subject(key: str) -> str:
    return key.partition("/epochs/")[0]


def _equal(found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"it belongs at {expected}")


def proven(kind: Kind, key: str, data: bytes) -> str | None:
    """Why a record is not what was written, ``None`` when it is."""
    try:
        kind.check(key, data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (HoldfastError, ValueError, KeyError, TypeError, RecursionError) as error:
        return str(error)
    return None


def _kind(
    name: str, pattern: str, check: Check, *, once: bool = True, lines: bool = False, each_site: bool = False
) -> Kind:
    # Nothing of ours has control characters in its name, and nothing that has them is to be printed.
    return Kind(name, re.compile(pattern.replace("[^/]", r"[^/\x00-\x1f\x7f]")), once, check, lines, each_site)


KINDS = (
    _kind("commit", r"snapshots/[^/]+/\d{8}T\d{6}\.\d{6}Z-\d{6,}-[0-9a-f]{32}\.json", _commit),
    _kind("fork", r"(snapshots|runs)/[^/]+/epochs/\d{6,}\.json", _fork),
    _kind("receipt", r"receipts/[^/]+/[^/]+/[^/]+\.json", _receipt, once=False),
    _kind("checkpoint", r"runs/[^/]+/checkpoints/\d+\.\d+\.json", _checkpoint, once=False),
    _kind("attempt", r"runs/[^/]+/attempts/\d+\.\d+(\.json|\.submitted|\.end\.json)", _json),
    _kind("tombstone", r"tombstones/[^/]+/(?!removing-)[^/]+\.json", _tombstone),
    _kind("plan", r"plans/[^/]+/[^/]+/(plan|aborted)\.json", _json),
    _kind("step", r"plans/[^/]+/[^/]+/\d{6,}/(attempts/)?[^/]+\.json", _json, once=False),
    _kind("approval", r"approvals/[^/]+/[^/]+/\d{6,}-\d{12,}\.json", _json),
    _kind("phase", r"evidence/[^/]+/phases/(attempts/)?[^/]+\.json", _json, once=False),
    _kind("drill", r"evidence/[^/]+/journal\.json", _json),
    _kind("decision", r"decisions/\d{4}/\d\d/\d\d/\d\d/[^/]+-\d{8,}\.jsonl", _decisions, lines=True),
    _kind("quality", r"quality/[^/]+/[^/]+\.json", _quality, once=False, each_site=True),
    _kind("cost", r"costs/\d{4}-\d\d/\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{64}\.json", _cost),
    _kind("vault", r"vaults/[^/]+/log/\d{12}\.json", _entry),
)  # fmt: skip
#: Under which folders they lie, and which folders below hold nothing but bytes: those are stepped over.
ROOTS: Mapping[str, re.Pattern[str] | None] = {
    "snapshots/": None,
    "runs/": re.compile(r"runs/[^/]+/blobs/"),
    "receipts/": None,
    "tombstones/": None,
    "plans/": None,
    "approvals/": None,
    "evidence/": None,
    "decisions/": None,
    "quality/": None,
    "costs/": None,
}
