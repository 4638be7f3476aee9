"""The verdict on one copy: today's policy is asked about the place it lies at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from holdfast.engine.audit.residency.decided import Decisions
from holdfast.engine.audit.residency.report import Copy, CopyKind, Verdict
from holdfast.engine.config import Residency, Topology
from holdfast.engine.policy import Intent, Kind, decide, residency_for
from holdfast.errors import UnknownName


@dataclass(frozen=True)
class Found:
    """A copy as it was found, before it is judged.

    Args:
        data: the dataset or model whose class binds it; ``None``: nobody knows what it is.
        intent: what brings such a copy to such a place.
        source: where it came from.
        arrived_at: when it was there; ``None``: not known.
        kinds, names: how decisions call it.
        one_of: where ``data`` is not known: it can only be of these.
    """

    kind: CopyKind
    subject: str
    item: str
    site: str
    data: str | None
    intent: Intent
    size_bytes: int | None = None
    objects: int | None = None
    source: str | None = None
    arrived_at: datetime | None = None
    kinds: Sequence[Kind] = (Kind.DATASET, Kind.MODEL)
    names: Iterable[str] = ()
    one_of: tuple[str, ...] = ()


class Judge:
    """Judges copies by a topology's policies of today and what was decided before.

    Raises (each method): ConfigError: a policy is wrong.
    """

    def __init__(self, topology: Topology, decisions: Decisions) -> None:
        self._topology, self._decisions = topology, decisions

    def judge(self, found: Found) -> Copy:
        """The verdict."""
        topology = self._topology
        if found.one_of:
            return self._any_of(found)
        if found.data is None:
            return self._told(found, None, *self._of_nobody())
        try:
            residency = residency_for(topology, found.data)
        except UnknownName:
            return self._told(found, None, *self._of_nobody())
        if residency is None:
            return self._told(found, None, Verdict.LAWFUL, "no residency class binds it")
        asked = decide(
            found.subject,
            residency,
            found.site,
            topology.sites,
            intent=found.intent,
            source=found.source if found.source in topology.sites else None,
            preview=True,
        )
        verdict = Verdict.LAWFUL if asked.allowed else Verdict.UNKNOWN if asked.failed else Verdict.BREACH
        return self._told(found, residency, verdict, "; ".join(asked.reasons), asked.policy_sha256)

    def _any_of(self, found: Found) -> Copy:
        """Lawful where each of those it may be of would be; else nobody knows."""
        asked = [self.judge(replace(found, data=one, one_of=())) for one in found.one_of]
        forbidden = [one for one, copy in zip(found.one_of, asked, strict=True) if copy.verdict is not Verdict.LAWFUL]
        listed = ", ".join(forbidden or found.one_of)
        if forbidden:
            return self._told(found, None, Verdict.UNKNOWN, f"it may be of {listed}, which may not lie here")
        return self._told(found, None, Verdict.LAWFUL, f"it can only be of {listed}, which may all lie here")

    def unreadable(self, site: str, subject: str, why: str) -> Copy:
        """A part of a site that could not be read: what lies there is unknown."""
        return Copy(
            CopyKind.UNREADABLE,
            subject,
            "",
            site,
            self._topology.sites[site].jurisdiction,
            None,
            None,
            None,
            None,
            None,
            None,
            Verdict.UNKNOWN,
            why,
        )

    def _of_nobody(self) -> tuple[Verdict, str]:
        if not self._topology.residency:
            return Verdict.LAWFUL, "the topology has no residency class"
        return Verdict.UNKNOWN, "it is no dataset, model or run of the topology, so nobody knows which class binds it"

    def _told(
        self, found: Found, residency: Residency | None, verdict: Verdict, why: str, policy_sha256: str | None = None
    ) -> Copy:
        classes = residency.scope.classes if residency is not None and residency.scope is not None else ()
        decision = None
        if residency is not None:
            names = found.names or (found.subject,)
            decision = self._decisions.allowing(found.kinds, names, found.site, before=found.arrived_at)
        return Copy(
            found.kind,
            found.subject,
            found.item,
            found.site,
            self._topology.sites[found.site].jurisdiction,
            "+".join(classes) or None,
            found.size_bytes,
            found.objects,
            None if decision is None else decision.id,
            None if decision is None else decision.policy_sha256,
            policy_sha256,
            verdict,
            why,
        )
