"""Walk all sites, and judge every copy that is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holdfast.engine.audit.residency.decided import read_decisions
from holdfast.engine.audit.residency.judging import Found, Judge
from holdfast.engine.audit.residency.report import Copy, ResidencyReport
from holdfast.engine.audit.residency.vaults import backups_at
from holdfast.engine.audit.residency.walk import SiteWalk
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.policy import check_policies
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import Manifest
from holdfast.errors import HoldfastError

#: The flow of its requests, which shares a site's limits with everybody else's.
_FLOW = "residency"


def prove(runtime: Runtime, *, sites: Sequence[str] = ()) -> ResidencyReport:
    """Every copy at every site, what allowed it there, and whether it may be there by today's policies.

    Reads listings, commit records, manifests, placements, receipts, vaults' logs and the decision log; no data. A
    site, or a part of one, that cannot be read is unknown and does not stop the rest.

    Args:
        sites: only these; by default all of the topology.

    Raises:
        UnknownName: no such site.
        ConfigError: a policy is wrong.
    """
    topology = runtime.topology
    check_policies(topology)
    wanted = {site: topology.site(site) for site in (sites or topology.sites)}
    made_at = runtime.clock.now()
    stores, closed = _stores(runtime, list(topology.sites))
    decisions = read_decisions(stores, runtime.decisions_folder)
    judge = Judge(topology, decisions)
    manifests: dict[str, Manifest] = {}
    copies: list[Copy] = []
    for site in wanted:
        if site in closed:
            copies.append(judge.unreadable(site, "the whole site", closed[site]))
            continue
        copies += _at(runtime, site, stores[site], judge, manifests)
    copies.sort(key=lambda one: (one.site, one.kind, one.subject, one.item))
    return ResidencyReport(made_at, tuple(copies), decisions.count, tuple(decisions.findings))


def _stores(runtime: Runtime, sites: Sequence[str]) -> tuple[dict[str, ObjectStore], dict[str, str]]:
    stores, closed = {}, {}
    for site in sites:
        try:
            stores[site] = runtime.store(site, flow=_FLOW)
        except HoldfastError as error:
            closed[site] = str(error)
    return stores, closed


def _at(
    runtime: Runtime, site: str, store: ObjectStore, judge: Judge, manifests: dict[str, Manifest]
) -> Iterator[Copy]:
    unread: list[tuple[str, str]] = []

    def note(subject: str, why: str) -> None:
        unread.append((subject, why))

    def found() -> Iterator[Found]:
        yield from SiteWalk(runtime.topology, site, store, note, manifests).walk()
        for name, vault in sorted(runtime.topology.vaults.items()):
            if site in vault.places:
                yield from backups_at(runtime, name, site, note)

    try:
        for one in found():
            yield judge.judge(one)
    except HoldfastError as error:
        note("the rest of the site", str(error))
    for subject, why in unread:
        yield judge.unreadable(site, subject, why)
