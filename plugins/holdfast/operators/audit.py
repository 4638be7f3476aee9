"""Sealed exports of audit events in Airflow: made, and verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from holdfast.operators.base import HoldfastOperator
from holdfast.operators.posture import TO_SEAL

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from holdfast.engine.audit.interface import Document
    from holdfast.engine.runtime import Runtime


class ExportAuditOperator(HoldfastOperator):
    """Collects what is new of every source of the topology's ``audit``, and seals it at two clouds or more.

    A source that cannot be read does not fail the task: it is sealed as unknown, and asked again by the next run. A
    seal that lies in one cloud alone fails it, without retries; that a site lacks it, or a lock, is returned. With an
    outlet the ledger's asset gets an event with the seal.

    :param until: where the window ends (ISO 8601), at latest now; empty: now. (templated)
    :returns: the seal, its root, per source its state and events, and ``problems``, for `AuditProblemNotifier`.
    """

    template_fields: Sequence[str] = ("until",)

    def __init__(self, *, until: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.until = until

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.audit.export import export_audit
        from holdfast.engine.audit.moments import parse_moment

        until = parse_moment(self.until, f"task {self.task_id}: until")
        findings = dict(self._findings())
        done = export_audit(runtime, until=until, documents=list(findings.values()), progress=self._tell)
        for file in findings:
            file.unlink(missing_ok=True)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"seal": done.record.seal, "root": done.record.root}
        for copy in done.copied:
            if copy.tiles is not None:
                self.log.warning("The tiles of %s are behind: %s", copy.site, copy.tiles)
        for problem in done.problems:
            self.log.error("%s: %s", problem.kind, problem)
        if done.exit_code:
            raise AirflowFailException(f"Seal {done.record.seal} is made, but {'; '.join(map(str, done.problems))}")
        return done.to_json()

    def _findings(self) -> Iterator[tuple[Path, Document]]:
        """What each run of the checks of posture and residency left since the last export."""
        from holdfast.engine.audit.interface import Document

        folder = self.hook.evidence_folder() / TO_SEAL
        for file in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
            media_type = "application/x-ndjson" if file.suffix == ".jsonl" else "application/json"
            yield file, Document(f"findings/{file.name}", media_type, file.read_bytes())

    def _tell(self, source: str, interval: Any, events: int) -> None:
        self.log.info("%s: up to %s, %d events", source, interval.end, events)


class VerifyExportsOperator(HoldfastOperator):
    """Reads exports back from a site and verifies them as an auditor does: signatures, bytes, log, coverage.

    It fails when something was tampered with, is missing or is unknown; what is late may be so for a day. With an
    outlet that asset gets an event with the site and the seals that hold.

    :param site: where they are read; empty: each of the ledger's sites in turn. (templated)
    :returns: what was verified.
    """

    template_fields: Sequence[str] = ("site",)

    def __init__(self, *, site: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.check_names(site=site or None)

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.audit.watch import verify_ledger

        done = verify_ledger(runtime, site=self.site or None)
        for problem in done.answer.problems[:200]:
            self.log.error("%s: %s", problem.kind, problem)
        if done.answer.problems:
            first = done.answer.problems[0]
            raise AirflowFailException(
                f"{done.answer.verdict}: {len(done.answer.problems)} problems at {done.site}; the first: {first}"
            )
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"site": done.site, "seals": list(done.seals)}
        self.log.info("Seals %s hold at %s", ", ".join(map(str, done.seals)), done.site)
        return done.to_json()
