"""Security posture and residency in Airflow: looked at, recorded, never mended in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime

#: Below the evidence folder: what the next export seals as well.
TO_SEAL = "to-seal"
_MOST_LINES = 100


class _FindingsOperator(HoldfastOperator):
    """Writes what it found down for the next export, then fails when it is not as it should be.

    With an outlet that asset gets an event with the counts, where the task does not fail.

    :param fail_on_unknown: fail, too, when something could not be looked at. It is recorded as unknown in any case.
    """

    def __init__(self, *, fail_on_unknown: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_on_unknown = fail_on_unknown

    def write(self, what: str, kind: str, at: datetime, text: str) -> Path:
        """A file of this run alone, which the next export seals and removes: ``<what>-<time>.<kind>``."""
        folder = self.hook.evidence_folder() / TO_SEAL
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{what}-{at:%Y%m%dT%H%M%S.%fZ}.{kind}"
        draft = folder / f".{name}"
        draft.write_text(text, encoding="utf-8")
        return draft.replace(folder / name)

    def judge(
        self, context: Context, what: str, counts: Mapping[str, int], wrong: Sequence[str], unknown: Sequence[str]
    ) -> None:
        """Fail with what is wrong, or where that was asked for with what is not known; else tell the outlets."""
        for line in [*wrong, *unknown][:_MOST_LINES]:
            self.log.warning("%s", line)
        if wrong:
            raise AirflowFailException(f"{what}: {len(wrong)} are not as they should be; the first: {wrong[0]}")
        if unknown and self.fail_on_unknown:
            raise AirflowFailException(f"{what}: {len(unknown)} could not be looked at; the first: {unknown[0]}")
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = dict(counts)


class CheckPostureOperator(_FindingsOperator):
    """Looks at encryption, locks, public access, logins, privileges and trails of every site. Mends nothing.

    :param sites: only these; none: all. (templated)
    :returns: how many checks pass, fail, are unknown or do not apply, and the file with the OCSF findings.
    """

    template_fields: Sequence[str] = ("sites",)

    def __init__(self, *, sites: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sites = list(sites)
        for site in self.sites:
            self.check_names(site=site)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast import strict_json
        from holdfast.engine.audit.posture import Status, as_ocsf, check_posture

        found = check_posture(runtime, sites=self.sites)
        now = runtime.clock.now()
        lines = "".join(strict_json.dumps(as_ocsf(result, now)) + "\n" for result in found.results)
        file = self.write("posture", "jsonl", now, lines)
        told = {
            status: [
                f"{one.check.check_id} at {one.site or one.resource.uid}: {one.found}"
                for one in found.results
                if one.status is status
            ]
            for status in (Status.FAIL, Status.UNKNOWN)
        }
        counts = {status.value: found.count(status) for status in Status}
        self.judge(context, "checks of the posture", counts, told[Status.FAIL], told[Status.UNKNOWN])
        return {"file": str(file), **counts}


class CheckResidencyOperator(_FindingsOperator):
    """Walks all sites and judges every copy that exists by the policies of today. Reads no data.

    :returns: the verdict, how many copies were judged, and the file with the proof.
    """

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast import strict_json
        from holdfast.engine.audit.residency import Verdict, prove

        report = prove(runtime)
        file = self.write("residency", "json", report.made_at, strict_json.dumps(report.to_json(), indent=1) + "\n")
        told = {
            verdict: [
                f"{one.subject} {one.item} at {one.site}: {one.why or verdict}"
                for one in report.copies
                if one.verdict is verdict
            ]
            for verdict in (Verdict.BREACH, Verdict.UNKNOWN)
        }
        counts = {verdict.value: sum(one.verdict is verdict for one in report.copies) for verdict in Verdict}
        self.judge(context, "copies of data", counts, told[Verdict.BREACH], told[Verdict.UNKNOWN])
        return {"file": str(file), "verdict": report.verdict.value, "copies": len(report.copies)}
