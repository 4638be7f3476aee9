"""Run the checks over a topology: every site, and once the account behind each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from holdfast.clock import Clock
from holdfast.engine.audit.posture.checks import BY_ID, CHECKS
from holdfast.engine.audit.posture.interface import (
    Check,
    Judgement,
    Leaf,
    NotThere,
    Place,
    Resource,
    Result,
    Status,
    Subject,
    Thresholds,
    not_applicable,
    unknown,
)
from holdfast.engine.audit.posture.privileges import ROLES
from holdfast.engine.config import Cloud, Connection, Topology
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError, UnknownName

#: What an answer of another form than documented leads to. It costs no other check, and is no pass.
_ODD = (LookupError, TypeError, ValueError, AttributeError)
#: Makes the leaf of a cloud: cloud, connection, region.
OpenLeaf = Callable[[Cloud, Connection, str], Leaf]


@dataclass(frozen=True)
class Posture:
    """What all checks came to, worst first."""

    results: tuple[Result, ...] = field(default_factory=tuple)

    def count(self, status: Status) -> int:
        return sum(result.status is status for result in self.results)

    @property
    def status(self) -> Status:
        """Fail before unknown before pass; nothing looked at is unknown."""
        for status in (Status.FAIL, Status.UNKNOWN, Status.PASS):
            if self.count(status):
                return status
        return Status.UNKNOWN


def check_posture(
    runtime: Runtime,
    *,
    sites: Collection[str] = (),
    check_ids: Collection[str] = (),
    role: str | None = None,
    thresholds: Thresholds | None = None,
    open_leaf: OpenLeaf | None = None,
) -> Posture:
    """Look, and write nothing.

    Args:
        runtime: its topology's sites are looked at with their connections.
        sites: only these, and the accounts behind them; none: all.
        check_ids: only these; none: all.
        role: the published role Holdfast's identity is meant to have; ``None``: what any of them has is fine.
        thresholds: what counts as stale.
        open_leaf: makes a cloud's leaf, instead of the connection's own clients.

    Raises:
        UnknownName: a site, a check or a role that there is not.
    """
    topology = runtime.topology
    names = [name for name in topology.sites if not sites or name in sites]
    for site in sites:
        topology.site(site)
    for check_id in check_ids:
        _known("check", check_id, BY_ID)
    if role is not None:
        _known("role", role, ROLES)
    wanted = [check for check in CHECKS if not check_ids or check.check_id in check_ids]
    opened = open_leaf or _opener(thresholds or Thresholds(), runtime.clock, role)
    leaves: dict[tuple[str, str], Leaf | HoldfastError] = {}
    looked: set[str] = set()
    results: dict[tuple[str, str, str], Result] = {}
    for name in names:
        for result in _of_site(runtime, _place(topology, name), wanted, leaves, looked, opened):
            # Two connections may lead to one account; two sites in one bucket are still two.
            results.setdefault((result.check.check_id, result.site or "", result.resource.uid), result)
    order = [Status.FAIL, Status.UNKNOWN, Status.NOT_APPLICABLE, Status.PASS]
    return Posture(tuple(sorted(results.values(), key=lambda result: order.index(result.status))))


def _of_site(
    runtime: Runtime,
    place: Place,
    wanted: list[Check],
    leaves: dict[tuple[str, str], Leaf | HoldfastError],
    looked: set[str],
    opened: OpenLeaf,
) -> Iterator[Result]:
    site = place.site
    if site.cloud is Cloud.LOCAL:
        yield from _local(place, wanted)
        return
    key = site.connection, site.region
    if key not in leaves:
        try:
            leaves[key] = opened(site.cloud, runtime.connections.get(site.connection), site.region)
        except HoldfastError as error:
            leaves[key] = error
    leaf = leaves[key]
    if isinstance(leaf, HoldfastError):
        bucket = Resource(site.cloud.value, "bucket", f"{site.cloud.value}:{site.bucket}", site.region)
        for check in wanted:
            resource = (
                bucket if check.of_site else Resource(site.cloud.value, "account", f"connection {site.connection}")
            )
            said = unknown(check.title, str(leaf), "Make the connection work")
            yield _result(check, place.name if check.of_site else None, resource, said, None)
        return
    yield from _of_subject(leaf, leaf.bucket(place), place.name, [check for check in wanted if check.of_site])
    if site.connection not in looked:
        looked.add(site.connection)
        for subject in leaf.accounts():
            yield from _of_subject(leaf, subject, None, [check for check in wanted if not check.of_site])


def _of_subject(leaf: Leaf, subject: Subject, site: str | None, wanted: list[Check]) -> Iterator[Result]:
    asked = [check for check in wanted if check.check_id in subject.asks]
    if not asked:
        return
    try:
        resource = subject.resource()
    except (HoldfastError, *_ODD):
        resource = subject.fallback
    for check in asked:
        try:
            said = subject.asks[check.check_id]()
        except NotThere as error:
            said = unknown(check.title, str(error), "Name what exists, or make it")
        except HoldfastError as error:
            said = unknown(check.title, str(error), "Give the identity the right to look: policy `posture`")
        except _ODD as error:
            said = unknown(check.title, f"an answer of another form: {type(error).__name__} {error}")
        yield _result(check, site, resource, said, leaf.asked_at)


def _result(check: Check, site: str | None, resource: Resource, said: Judgement, asked_at: str | None) -> Result:
    return Result(
        check, site, resource, said.status, said.expected, said.found, said.evidence, said.remediation, asked_at
    )


def _local(place: Place, wanted: list[Check]) -> Iterator[Result]:
    resource = Resource("local", "folder", place.site.bucket, place.site.region)
    for check in wanted:
        if check.of_site:
            said = not_applicable(check.title, "a local folder: its machine's owner answers for it")
            yield _result(check, place.name, resource, said, None)


def _place(topology: Topology, name: str) -> Place:
    locking = {
        site
        for vault in topology.vaults.values()
        if vault.lock_days
        for site in (vault.site, *vault.mirrors, *(vault.shares.sites if vault.shares else ()))
    }
    if topology.audit is not None and topology.audit.lock_mode != "none":
        locking |= set(topology.audit.sites)
    return Place(name, topology.site(name), name in locking)


def _known(kind: str, name: str, among: Collection[str]) -> None:
    if name not in among:
        raise UnknownName(f"there is no such {kind}", expected=f"one of {', '.join(among)}", found=repr(name))


def _opener(thresholds: Thresholds, clock: Clock, role: str | None) -> OpenLeaf:
    def opened(cloud: Cloud, connection: Connection, region: str) -> Leaf:
        if cloud is Cloud.AWS:
            from holdfast.engine.audit.posture.aws import AwsPosture

            return AwsPosture(connection, region, thresholds, clock, role=role)
        if cloud is Cloud.GCP:
            from holdfast.engine.audit.posture.gcp import GcpPosture

            return GcpPosture(connection, thresholds, clock, role=role)
        from holdfast.engine.audit.posture.azure import AzurePosture

        return AzurePosture(connection, thresholds, clock, role=role)

    return opened
