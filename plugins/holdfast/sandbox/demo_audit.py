"""The demo's last chapter: an export of its own run, of three clouds and Airflow, sealed and verified offline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from holdfast.engine.audit.export import Exported, export_audit
from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.problems import Answer, Kind
from holdfast.engine.audit.signing import cosigners
from holdfast.engine.audit.verify import verify_export
from holdfast.engine.runtime import Runtime
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.supervisor import Sandbox
from holdfast.sandbox.trails.delivery import Delivered

#: Where the export lies below the demo's output.
FOLDER = "audit-export"
#: A drill's files, and what they are.
EVIDENCE = {
    "journal.json": "application/json",
    "report.html": "text/html",
    "evidence.dsse.json": "application/json",
}
_WORDS = {"late": "late: its hour is not over", "unknown": "unknown whether all"}


@dataclass(frozen=True)
class AuditFigures:
    """What was exported, and what its verification says.

    Args:
        export_seconds: collecting, sealing, and writing it at every site.
        verify_seconds: offline.
    """

    exported: Exported
    answer: Answer
    export_seconds: float
    verify_seconds: float

    @property
    def is_whole(self) -> bool:
        """Nothing was tampered with."""
        return not any(problem.kind is Kind.TAMPERED for problem in self.answer.problems)

    @property
    def passed(self) -> bool:
        """It is whole, and no source shows a gap. An hour that is not over may be late."""
        return self.is_whole and "gap" not in self.answer.sources.values() and bool(self.answer.signed_by)


def export_own_run(
    sandbox: Sandbox,
    output: Path,
    evidence: Mapping[str, Path],
    *,
    say: Callable[[str], object] = lambda _line: None,
) -> AuditFigures:
    """Deliver the clouds' trails, export everything since the sandbox began, and verify the export offline.

    Args:
        output: the demo's; the export goes into a folder of it.
        evidence: by the name of the drill, the folder with its evidence, which is sealed with the events.

    Raises:
        PartFailed: a trail was not delivered.
        HoldfastError: the export failed.
    """
    delivered = _flush(sandbox)
    # Anew: since the demo began its Airflow has got a connection.
    runtime = Runtime.from_environment(environ={**os.environ, **sandbox.environment()})
    folder = output / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    began = runtime.clock.monotonic()
    exported = export_audit(
        runtime,
        output=folder,
        since=min(datetime.fromisoformat(one.began) for one in delivered),
        # Up to where the clouds have delivered, or CloudTrail's next digest would be awaited.
        until=min(datetime.fromisoformat(one.until) for one in delivered),
        documents=[
            Document(f"evidence/{drill}/{name}", media_type, (folder_of_drill / name).read_bytes())
            for drill, folder_of_drill in evidence.items()
            for name, media_type in EVIDENCE.items()
        ],
    )
    sealed = runtime.clock.monotonic()
    for one in exported.manifest.sources:
        say(f"{one.name}: {one.records:,} events, {one.state}")
    sites = ", ".join(copy.site for copy in exported.copied if copy.error is None)
    say(f"sealed at {sites}: {exported.record.size:,} leaves, root {exported.record.root[:16]}")
    verified = verify_export(folder, trusted=[signer.key for signer in cosigners(runtime)])
    figures = AuditFigures(exported, verified.answer, sealed - began, runtime.clock.monotonic() - sealed)
    say(f"verified offline: {verified.answer.verdict}")
    for problem in verified.answer.problems:
        if problem.kind is not Kind.INCOMPLETE:
            say(f"  {problem.kind}: {problem}"[:300])
    return figures


def audit_rows(figures: AuditFigures) -> Iterator[tuple[str, str, str, bool | None]]:
    """Claim, objective, measured value and verdict, for the demo's table."""
    exported, answer = figures.exported, figures.answer
    sealed_at = [copy.site for copy in exported.copied if copy.error is None]
    events = sum(one.records for one in exported.manifest.sources)
    yield "Audit export", "≥ 2 clouds", f"{events:,} events, {figures.export_seconds:.1f} s", len(sealed_at) >= 2
    for one in exported.manifest.sources:
        state = answer.sources.get(one.name, str(one.state))
        holds = {"complete": True, "gap": False}.get(state)
        yield f"  {one.name}", "complete", f"{one.records:,} events, {_WORDS.get(state, state)}", holds
    yield "Export verified offline", "untampered", f"{figures.verify_seconds:.1f} s, {answer.verdict}", figures.is_whole


def _flush(sandbox: Sandbox) -> list[Delivered]:
    delivered = sandbox.deliver_trails()
    for one in delivered:
        if one.error is not None:
            raise PartFailed("the trail was not delivered", where=one.site, found=json.dumps(one.error)[:400])
    return delivered
