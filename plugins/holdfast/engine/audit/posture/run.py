"""Run the checks over a topology: every site, and once the account behind each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

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

    results: tuple[Result, ...]

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
    run = _Run(runtime, wanted, opened)
    results: dict[tuple[str, str, str], Result] = {}
    # Accounts last: an identity's rights are looked up at every bucket that was seen.
    for result in (*(one for name in names for one in run.of_site(_place(topology, name))), *run.of_accounts()):
        # Two connections may lead to one account; two sites in one bucket are still two.
        key = result.check.check_id, result.site or "", result.resource.uid
        known = results.get(key)
        if known is None or known.status is Status.UNKNOWN or result.status is Status.FAIL:
            results[key] = result
    order = [Status.FAIL, Status.UNKNOWN, Status.NOT_APPLICABLE, Status.PASS]
    return Posture(tuple(sorted(results.values(), key=lambda result: order.index(result.status))))


class _Run:
    """One look: a leaf for each connection, made when the first of its sites is looked at."""

    def __init__(self, runtime: Runtime, wanted: list[Check], opened: OpenLeaf) -> None:
        self._runtime, self._opened = runtime, opened
        self._of_site = [check for check in wanted if check.of_site]
        self._of_account = [check for check in wanted if not check.of_site]
        self._leaves: dict[str, Leaf] = {}
        self._broken: dict[str, tuple[str, HoldfastError]] = {}

    def of_site(self, place: Place) -> Iterator[Result]:
        site = place.site
        if site.cloud is Cloud.LOCAL:
            yield from _local(place, self._of_site)
            return
        leaf = self._leaf(place)
        if leaf is not None:
            yield from _of_subject(leaf, leaf.bucket(place), place.name, self._of_site)
            return
        resource = Resource(site.cloud.value, "bucket", f"{site.cloud.value}:{site.bucket}", site.region)
        for check in self._of_site:
            yield _result(check, place.name, resource, self._cannot(check, site.connection), None)

    def of_accounts(self) -> Iterator[Result]:
        for leaf in self._leaves.values():
            for subject in leaf.accounts():
                yield from _of_subject(leaf, subject, None, self._of_account)
        for connection, (cloud, _) in self._broken.items():
            for check in self._of_account:
                resource = Resource(cloud, "account", f"connection {connection}")
                yield _result(check, None, resource, self._cannot(check, connection), None)

    def _leaf(self, place: Place) -> Leaf | None:
        site = place.site
        if site.connection not in self._leaves and site.connection not in self._broken:
            try:
                connection = self._runtime.connections.get(site.connection)
                self._leaves[site.connection] = self._opened(site.cloud, connection, site.region)
            except HoldfastError as error:
                self._broken[site.connection] = site.cloud.value, error
        return self._leaves.get(site.connection)

    def _cannot(self, check: Check, connection: str) -> Judgement:
        return unknown(check.title, str(self._broken[connection][1]), "Make the connection work")


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
        said = not_applicable(check.title, "a local folder: its machine's owner answers for it")
        yield _result(check, place.name, resource, said, None)


def _place(topology: Topology, name: str) -> Place:
    locking = {site for vault in topology.vaults.values() if vault.lock_days for site in vault.places}
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
