"""An export's evidence as OSCAL assessment results (`compliance-trestle`, the extra `oscal`).

The objective that is judged is that our evidence exists and says what is looked for, never the rule itself. OSCAL knows
satisfied and not satisfied alone: what is unknown, partly shown or missing is not satisfied, with the reason said.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast import __version__
from holdfast.engine.audit.evidence.controls import DISCLAIMER
from holdfast.engine.audit.evidence.exports import Exports
from holdfast.engine.audit.evidence.gather import gather
from holdfast.engine.audit.evidence.index import Answer, evidence_shown, judge, writes_to
from holdfast.engine.audit.evidence.observations import Named, Observation, Shown
from holdfast.engine.audit.manifest import MANIFEST
from holdfast.engine.audit.verify import Verified
from holdfast.errors import ConfigError

_NAMESPACE = "https://holdfast.invalid/oscal"
_REASONS = {
    Shown.CONTRARY: "the evidence says the opposite",
    Shown.UNKNOWN: "unknown: evidence is not there, or does not say",
    Shown.PARTLY: "the evidence that an export can hold says so; more is needed, see the remarks",
    Shown.SHOWN: "the evidence is there and says so",
}


def write_oscal(verified: Verified | Exports, file: Path) -> list[Answer]:
    """Write assessment results as JSON.

    Raises:
        ConfigError: the extra `oscal` is not installed, there is such a file already, or it cannot be written.
        Tampered: an export is not what was sealed.
    """
    if find_spec("trestle") is None:
        raise ConfigError(
            "OSCAL needs compliance-trestle",
            where="holdfast audit oscal",
            expected="the extra `oscal`",
            found="no module trestle",
            fix="pip install 'holdfast[oscal]'; `holdfast audit index` needs nothing",
        )
    if file.exists():
        raise ConfigError("there is such a file already", where=str(file), expected="a new file", found="one")
    exports = Exports.of(verified)
    observations = gather(exports)
    answers = judge(observations)
    text = _Writing(exports).results(observations, answers).oscal_serialize_json(pretty=True)
    with writes_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return answers


class _Writing:
    """Ids follow from the exports' roots, so the same exports give the same ids."""

    def __init__(self, exports: Exports) -> None:
        self._exports, self._manifest = exports, exports.newest
        roots = ",".join(str(one.answer.root) for one in exports.each)
        self._base = uuid5(NAMESPACE_URL, f"holdfast:{self._manifest.origin}:{roots}")

    def _id(self, *name: str) -> str:
        return str(uuid5(self._base, "\n".join(name)))

    def results(self, observations: Sequence[Observation], answers: Sequence[Answer]) -> Any:
        from trestle.oscal import OSCAL_VERSION, assessment_results, common

        manifest = self._manifest
        files = dict.fromkeys(file for one in observations for file in one.files)
        title = f"Evidence of seal {manifest.seal} of {_line(manifest.origin)}"
        start, end = self._exports.window
        selected = [common.SelectControlById(control_id=one.control.id) for one in answers]
        result = assessment_results.Result(
            uuid=self._id("result"),
            title=title,
            description=DISCLAIMER,
            start=start,
            end=end,
            props=[
                self._prop("root", str(self._exports.answer.root)),
                self._prop("leaves", str(manifest.size)),
                self._prop("verdict", self._exports.answer.verdict),
            ],
            reviewed_controls=common.ReviewedControls(
                control_selections=[common.ControlSelections(include_controls=selected)], remarks=DISCLAIMER
            ),
            observations=[self._observation(one) for one in observations],
            findings=[self._finding(one) for one in answers],
        )
        return assessment_results.AssessmentResults(
            uuid=self._id("results"),
            metadata=common.Metadata(
                title=title,
                last_modified=manifest.sealed_at,
                version=str(manifest.seal),
                oscal_version=OSCAL_VERSION,
                remarks=DISCLAIMER,
                props=[self._prop("holdfast-version", __version__)],
            ),
            import_ap=assessment_results.ImportAp(
                href=f"#{self._file_id(self._exports.path(self._exports.each[-1], MANIFEST))}",
                remarks="There is no assessment plan. The manifest says what was to be collected.",
            ),
            results=[result],
            back_matter=common.BackMatter(resources=[self._resource(file) for file in files]),
        )

    def _file_id(self, path: str) -> str:
        return self._id("file", path)

    def _prop(self, name: str, value: str) -> Any:
        from trestle.oscal import common

        return common.Property(name=name, ns=_NAMESPACE, value=_line(value))

    def _resource(self, file: Named) -> Any:
        from trestle.oscal import common

        return common.Resource(
            uuid=self._file_id(file.path),
            title=file.path,
            rlinks=[common.Rlink(href=file.path, hashes=[common.Hash(algorithm="SHA-256", value=file.sha256)])],
        )

    def _observation(self, one: Observation) -> Any:
        from trestle.oscal import common

        evidence = [
            common.RelevantEvidence(href=f"#{self._file_id(file.path)}", description=file.path) for file in one.files
        ]
        return common.Observation(
            uuid=self._id("observation", one.look, one.name),
            title=_line(f"{one.look}: {one.name}"),
            description=_line(one.what),
            methods=["TEST" if one.look in ("verification", "posture", "drills") else "EXAMINE"],
            props=[self._prop("shown", str(one.shown))],
            relevant_evidence=evidence or None,
            collected=one.at or self._manifest.sealed_at,
        )

    def _finding(self, answer: Answer) -> Any:
        from trestle.oscal import common

        control = answer.control
        related = [
            common.RelatedObservation(observation_uuid=self._id("observation", one.look, one.name))
            for one in answer.observations()
        ]
        state = "satisfied" if answer.shown is Shown.SHOWN else "not-satisfied"
        told = [
            f"{evidence.says} ({evidence.look}): {evidence_shown(evidence, found)}." for evidence, found in answer.found
        ]
        told += [f"{missing}: no export holds it." for missing in control.missing]
        return common.Finding(
            uuid=self._id("finding", control.id),
            title=_line(f"{control.framework}: {control.articles}"),
            description=f"{control.title}. {' '.join(told)}",
            props=[self._prop("control", control.id), self._prop("shown", str(answer.shown))],
            target=common.FindingTarget(
                type="objective-id",
                target_id=f"{control.id}.evidence",
                title=_line(f"The evidence an export can hold for {control.framework}: {control.articles}"),
                description="That the evidence exists and says what is looked for; not that the rule is met",
                status=common.ObjectiveStatus(
                    state=state,
                    reason="pass" if state == "satisfied" else "fail" if answer.shown is Shown.CONTRARY else "other",
                    remarks=_REASONS[answer.shown],
                ),
            ),
            related_observations=related or None,
            remarks=DISCLAIMER,
        )


def _line(text: str) -> str:
    """One line, as OSCAL's strings must be."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "-"
