"""An index of an export by control: which of its documents speak to which rule, and what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.engine.audit.evidence.controls import DISCLAIMER, Control, Evidence, controls
from holdfast.engine.audit.evidence.exports import Exports
from holdfast.engine.audit.evidence.gather import gather
from holdfast.engine.audit.evidence.observations import Observation, Shown, worst_of
from holdfast.engine.audit.ledger import require_empty
from holdfast.engine.audit.verify import Verified
from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.errors import ConfigError

FORMAT = "holdfast.audit-index/1"
INDEX, READABLE = "index.json", "index.md"
_MOST_LINES = 20


@dataclass(frozen=True)
class Answer:
    """One control, and per evidence what was found.

    Args:
        found: in the order of the control's evidence.
        shown: of the whole: never better than its evidence, than the export's own verification, or than what no
            export holds lets it be.
    """

    control: Control
    found: tuple[tuple[Evidence, tuple[Observation, ...]], ...]
    shown: Shown

    def observations(self) -> list[Observation]:
        """All of them, each once."""
        return list(dict.fromkeys(one for _, found in self.found for one in found))


def judge(observations: Sequence[Observation]) -> list[Answer]:
    """Every control."""
    sealed = [one.shown for one in observations if one.look == "verification"]
    return [_judge(control, observations, worst_of(sealed)) for control in controls()]


def _judge(control: Control, observations: Sequence[Observation], sealed: Shown) -> Answer:
    found = tuple(
        (evidence, tuple(one for one in observations if one.speaks_to(evidence))) for evidence in control.evidence
    )
    each = [evidence_shown(evidence, speaking) for evidence, speaking in found] or [Shown.UNKNOWN]
    limit = [Shown.PARTLY] if control.missing else []
    return Answer(control, found, worst_of([sealed, *each, *limit]))


def evidence_shown(evidence: Evidence, observations: Sequence[Observation]) -> Shown:
    """What one evidence comes to. What is not there is unknown: each check and each path that is named must be."""
    subjects = {one.subject for one in observations}
    is_whole = subjects.issuperset(evidence.checks) and all(
        any(subject.startswith(path) for subject in subjects) for path in evidence.paths
    )
    return worst_of([*(one.shown for one in observations), *([] if is_whole else [Shown.UNKNOWN])])


def write_index(verified: Verified | Exports, folder: Path) -> list[Answer]:
    """Write the index of one or more exports into an empty folder, as JSON and for people.

    Raises:
        Tampered: an export is not what was sealed.
        ConfigError: the folder is not empty, or cannot be written.
    """
    exports = Exports.of(verified)
    answers = judge(gather(exports))
    with writes_to(folder):
        require_empty(folder)
        (folder / INDEX).write_bytes(canonical(as_json(exports, answers)))
        (folder / READABLE).write_text("\n".join(_readable(exports, answers)) + "\n", encoding="utf-8")
    return answers


@contextmanager
def writes_to(path: Path) -> Iterator[None]:
    """What is written here goes to a path of the caller's. Raises ConfigError: the disk refuses it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "it cannot be written",
            where=str(path),
            expected="a path that can be written",
            found=error.strerror or str(error),
            fix="Name another path",
        ) from None


def as_json(verified: Verified | Exports, answers: Sequence[Answer]) -> dict[str, Any]:
    """The index, JSON-able."""
    exports = Exports.of(verified)
    manifest = exports.newest
    return {
        "format": FORMAT,
        "note": DISCLAIMER,
        "origin": manifest.origin,
        "seal": manifest.seal,
        "seals": [one.seal for one in exports.manifests()],
        "size": manifest.size,
        "root": exports.answer.root,
        "sealed_at": iso_utc(manifest.sealed_at),
        "verdict": exports.answer.verdict,
        "controls": [
            {
                "id": one.control.id,
                "framework": one.control.framework,
                "articles": one.control.articles,
                "title": one.control.title,
                "shown": str(one.shown),
                "missing": list(one.control.missing),
                "evidence": [
                    {
                        "look": evidence.look,
                        "says": evidence.says,
                        "shown": str(evidence_shown(evidence, found)),
                        "observations": [_as_json(each) for each in found],
                    }
                    for evidence, found in one.found
                ],
            }
            for one in answers
        ],
    }


def _as_json(one: Observation) -> dict[str, Any]:
    files = [{"path": file.path, "sha256": file.sha256} for file in one.files]
    return {"name": one.name, "shown": str(one.shown), "what": one.what, "files": files}


def _readable(exports: Exports, answers: Sequence[Answer]) -> Iterator[str]:
    manifest = exports.newest
    yield "# Index by control"
    yield ""
    yield f"**{DISCLAIMER}**"
    yield ""
    yield f"Seal {manifest.seal} of {_plain(manifest.origin)}, {manifest.size} leaves, root `{exports.answer.root}`."
    yield f"Sealed at {iso_utc(manifest.sealed_at)}; verified: {exports.answer.verdict}."
    if len(exports.each) > 1:
        yield f"It is the newest of {len(exports.each)} exports, which begin with seal {exports.manifests()[0].seal}."
    for one in answers:
        control = one.control
        yield ""
        yield f"## {_plain(control.framework)}: {_plain(control.articles)}"
        yield ""
        yield f"{_plain(control.title)}. **{one.shown}**"
        yield ""
        for evidence, found in one.found:
            yield f"- {_plain(evidence.says)} ({evidence.look}): **{evidence_shown(evidence, found)}**{_counted(found)}"
            for each in sorted(found, key=lambda each: list(Shown).index(each.shown))[:_MOST_LINES]:
                files = ", ".join(f"`{file.path}` {file.sha256[:16]}…" for file in each.files)
                yield f"  - {each.shown}: {_plain(each.what)}{f' [{files}]' if files else ''}"
            if len(found) > _MOST_LINES:
                yield f"  - and {len(found) - _MOST_LINES} more in `{INDEX}`"
        for missing in control.missing:
            yield f"- {_plain(missing)}: **no export holds it**"


def _counted(found: Sequence[Observation]) -> str:
    if not found:
        return ", nothing of it is here"
    counts = Counter(str(one.shown) for one in found)
    return ", " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _plain(text: str) -> str:
    """A text of anybody's as one line of Markdown that means nothing but itself."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|!&" else c for c in line if c.isprintable())
