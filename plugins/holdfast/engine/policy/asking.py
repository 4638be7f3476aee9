"""Ask before a byte moves: one decision per residency class that binds it, written down; a refusal where one denies.

Everything that copies, backs up, trains, restores or promotes asks here; nothing else decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from holdfast.engine.config.models import Residency, Site, Topology
from holdfast.engine.config.residency import ResidencyRefused
from holdfast.engine.policy.compiled import Answer, Policy
from holdfast.engine.policy.log import DecisionLog
from holdfast.engine.policy.records import NOTHING_BEFORE, DecisionRecord
from holdfast.engine.policy.request import Action, Kind, Place, Request, Resource, Service
from holdfast.engine.policy.texts import of_jurisdictions, policy_of
from holdfast.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Intent:
    """Who wants to do what, and what for.

    Args:
        kind: of the resource; ``None``: a dataset or a model, as the topology has it.
        encrypted: by Holdfast before it lies there; ``None``: as the dataset's `sync.encrypt` says.
    """

    service: Service
    action: Action
    purpose: str
    kind: Kind | None = None
    encrypted: bool | None = None


REPLICATE = Intent(Service.REPLICATION, Action.COPY, "replication")
COPY_CHECKPOINTS = Intent(Service.CHECKPOINT, Action.COPY, "replication", Kind.CHECKPOINT, encrypted=False)
TRAIN = Intent(Service.TRAINING, Action.TRAIN, "training", encrypted=False)
RESUME = Intent(Service.RECOVERY, Action.TRAIN, "recovery", Kind.CHECKPOINT, encrypted=False)
PROMOTE = Intent(Service.RECOVERY, Action.STORE, "recovery")
BACK_UP = Intent(Service.VAULT, Action.STORE, "backup", Kind.BACKUP, encrypted=True)
RESTORE = Intent(Service.VAULT, Action.RESTORE, "recovery", encrypted=False)
DRILL_RESTORE = Intent(Service.DRILL, Action.RESTORE, "restore-drill", encrypted=False)
_INTENTS = (REPLICATE, COPY_CHECKPOINTS, TRAIN, RESUME, PROMOTE, BACK_UP, RESTORE, DRILL_RESTORE)


def intent_of(service: Service, action: Action) -> Intent:
    """What a service asks before it does that; of what none does, a replication's purpose."""
    usual = (one for one in _INTENTS if (one.service, one.action) == (service, action))
    return next(usual, Intent(service, action, "replication"))


@dataclass(frozen=True)
class Decision:
    """What was decided, and by what.

    Args:
        allowed: every class that binds it permits it, and nothing went wrong.
        policy_sha256: of the policy that decided: of the first that denies, else of the first.
        policy: its name.
        determining: the policies in it that decided; none: nothing permits it.
        reasons: a sentence for each class.
        ids: of the lines in the decision log; none: it was not written down (a preview, or no log is there).
        residency_class: of the policy that decided.
        failed: it was denied because something went wrong while a policy was asked.
    """

    allowed: bool
    policy_sha256: str
    policy: str
    determining: tuple[str, ...]
    reasons: tuple[str, ...]
    ids: tuple[str, ...] = ()
    residency_class: str = ""
    failed: bool = False


def check_hop(
    subject: str,
    residency: Residency | None,
    target: str,
    sites: Mapping[str, Site],
    *,
    intent: Intent = REPLICATE,
    source: str | None = None,
    resource: str | None = None,
    preview: bool = False,
) -> Decision | None:
    """Whether this may be done with bytes of this class at a site. ``None``: no class binds them.

    Args:
        subject: dataset, model, run or backup, for the message.
        residency: as `Topology.residency_of` or `residency_for` gives it; ``None``: may lie anywhere.
        target: the site they would lie at.
        sites: of the topology.
        source: the site they come from, where it is known.
        resource: its name in the log; by default the subject.
        preview: nothing follows from the answer but a report: it is not written down.

    Raises:
        ResidencyRefused: not allowed; nothing was copied.
        DecisionNotRecorded: the decision can be written down nowhere; nothing was copied.
        ConfigError: a policy is wrong.
    """
    if residency is None:
        return None
    decision = decide(resource or subject, residency, target, sites, intent=intent, source=source, preview=preview)
    if not decision.allowed:
        raise _refusal(subject, residency, target, sites, decision)
    return decision


def decide(
    subject: str,
    residency: Residency,
    target: str,
    sites: Mapping[str, Site],
    *,
    intent: Intent = REPLICATE,
    source: str | None = None,
    preview: bool = False,
) -> Decision:
    """The same as `check_hop`, as an answer. Raises DecisionNotRecorded, ConfigError."""
    scope = residency.scope
    log: DecisionLog | None = scope.topology._decisions if scope is not None and not preview else None
    place = _place(target, sites)
    found: list[Decision] = []
    for name, policy in _policies(residency):
        request = Request(
            intent.action,
            intent.service,
            _resource(subject, name, intent, residency),
            _place(source, sites) if source is not None and source in sites else None,
            place,
            intent.purpose,
            _encrypted(intent, residency, target),
        )
        # A site the topology does not have is nowhere: no policy is asked about it.
        unknown = Answer(False, (), ("the topology has no such site",))
        answer = policy.ask(request) if target in sites else unknown
        found.append(_decided(request, policy, answer, log))
    first = next((one for one in found if not one.allowed), found[0])
    return replace(
        first,
        reasons=tuple(reason for one in found for reason in one.reasons),
        ids=tuple(i for one in found for i in one.ids),
        failed=any(one.failed for one in found),
    )


def _policies(residency: Residency) -> list[tuple[str, Policy]]:
    scope = residency.scope
    if scope is not None:
        return [(name, policy_of(scope.topology, name)) for name in scope.classes]
    if residency.policy is not None:
        raise ConfigError("a policy file without its topology", expected="a class asked of a topology")
    return [("", of_jurisdictions("", residency.jurisdictions))]


def _place(site: str, sites: Mapping[str, Site]) -> Place:
    settings = sites.get(site)
    return Place(site, "", "", "") if settings is None else Place.of(site, settings)


def _resource(subject: str, name: str, intent: Intent, residency: Residency) -> Resource:
    scope = residency.scope
    if scope is None:
        return Resource(intent.kind or Kind.DATASET, subject, name)
    topology = scope.topology
    kind = intent.kind or (Kind.DATASET if scope.subject in topology.datasets else Kind.MODEL)
    group = _group_of(topology, scope.subject)
    return Resource(kind, subject, name, group, topology.groups[group].tier if group else 0)


def _group_of(topology: Topology, subject: str) -> str:
    """The first group that protects a dataset or model; empty: none does."""
    for name, group in topology.groups.items():
        jobs = [topology.training[job] for job in group.training]
        models = {job.model for job in jobs} | {topology.services[one].model for one in group.services}
        if subject in group.datasets or subject in models or any(job.dataset == subject for job in jobs):
            return name
    return ""


def _encrypted(intent: Intent, residency: Residency, target: str) -> bool:
    if intent.encrypted is not None:
        return intent.encrypted
    scope = residency.scope
    if scope is None or scope.subject not in scope.topology.datasets:
        return False
    return scope.topology.lies_encrypted(scope.subject, target)


def _decided(request: Request, policy: Policy, answer: Answer, log: DecisionLog | None) -> Decision:
    why = _why(request, policy, answer)
    ids: tuple[str, ...] = ()
    if log is not None:
        key = (policy.sha256, request)
        ids = (log.record(key, lambda: _draft(request, policy, answer, why)).id,)
    return Decision(
        answer.allowed,
        policy.sha256,
        policy.name,
        answer.determining,
        (why,),
        ids,
        request.resource.residency_class,
        bool(answer.errors),
    )


def _why(request: Request, policy: Policy, answer: Answer) -> str:
    what = f"{request.action} at {request.target.site}"
    if answer.errors:
        return f"{what} is denied, for {policy.name} could not be asked: {'; '.join(answer.errors)}"
    if not answer.determining:
        return f"{what} is denied, for nothing in {policy.name} permits it"
    verb = "permitted" if answer.allowed else "forbidden"
    return f"{what} is {verb} by {', '.join(answer.determining)}"


def _draft(request: Request, policy: Policy, answer: Answer, why: str) -> DecisionRecord:
    wanted = request.resource
    return DecisionRecord.model_validate(
        {
            "id": "",
            "at": datetime(1970, 1, 1, tzinfo=UTC),
            "writer": "",
            "seq": 1,
            "previous": NOTHING_BEFORE,
            "action": request.action,
            "principal": {"service": request.service, "group": wanted.group},
            "resource": {
                "kind": wanted.kind,
                "name": wanted.name,
                "class": wanted.residency_class,
                "group": wanted.group,
                "tier": wanted.tier,
            },
            "source": None if request.source is None else request.source.as_dict(),
            "target": request.target.as_dict(),
            "purpose": request.purpose,
            "encrypted": request.encrypted,
            "allowed": answer.allowed,
            "policy": policy.name,
            "policy_sha256": policy.sha256,
            "determining": answer.determining,
            "why": why,
        }
    )


def _refusal(
    subject: str, residency: Residency, target: str, sites: Mapping[str, Site], decision: Decision
) -> ResidencyRefused:
    site = sites.get(target)
    found = site.jurisdiction if site is not None else "a site the topology does not have"
    what = "the data may not lie in this site's jurisdiction; nothing was copied"
    expected = f"one of {', '.join(residency.jurisdictions) or '(no jurisdiction at all)'}"
    scope = residency.scope
    if scope is not None and any(scope.topology.residency[name].policy is not None for name in scope.classes):
        what = "the residency policy does not allow it; nothing was copied"
        expected = f"what {decision.policy} permits"
        found = f"{found}: {'; '.join(decision.reasons)}"
    return ResidencyRefused(
        what,
        where=f"{subject} → {target}",
        expected=expected,
        found=found,
        fix="Choose another target, or have the dataset's residency class changed by who answers for it",
    )
