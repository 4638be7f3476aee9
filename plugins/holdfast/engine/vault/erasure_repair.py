"""Repair an erasure-coded store: missing and damaged shares and copies are written anew from those that are good."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectInfo
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.erasure import HINTS, ErasureStore
from holdfast.engine.vault.erasure_sites import ErasureSite, ShareProblem
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.shares import make_shares, read_share

_READERS = 8


@dataclass
class SharesReport:
    """What a repair of the shares found and did; `repair.RepairReport` holds it beside what else was repaired.

    Args:
        checked: objects looked at.
        repaired: shares and copies that were written.
        away: sites that did not answer; nothing is known of them and nothing was written there.
        unfinished: objects with too few shares, by key, while all sites answer: of a write that runs or was broken off,
            or lost; when the newest share was written. Only a collection knows which, see `unfinished_packs`.
        failed: what could not be repaired, one sentence each.
    """

    checked: int = 0
    repaired: list[ShareProblem] = field(default_factory=list)
    repaired_bytes: int = 0
    away: list[str] = field(default_factory=list)
    unfinished: dict[str, datetime] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Every object lies at every site now."""
        return not self.away and not self.failed


def repair(
    store: ErasureStore,
    *,
    deep: bool = False,
    progress: Callable[[SharesReport], None] = lambda _report: None,
) -> SharesReport:
    """Compare all sites and write what is missing or damaged. Can be broken off and run again; needs no key.

    Nothing is removed.

    Args:
        deep: read every share and copy; else only what listings show is repaired: missing, or of a wrong size.
        progress: told after each object.
    """
    report = SharesReport()
    away: dict[str, ObjectStoreError] = {}
    listings = _listings(store, away)
    report.away.extend(away)
    store.shares.forget()
    for key in sorted(set().union(*listings.values()) - set(HINTS)):
        if key.startswith("clock/"):
            continue
        there = {site: listing.get(key) for site, listing in listings.items()}
        try:
            if store.is_shared(key):
                _repair_shares(store, key, there, report, deep=deep)
            else:
                _repair_copies(key, there, report, deep=deep)
        except (Damaged, ObjectStoreError) as error:
            report.failed.append(f"{key}: {error}")
        report.checked += 1
        progress(report)
    if report.is_whole:
        store.settled(deep=deep)
    return report


@dataclass
class Survey:
    """What `repair` would have to write of some objects.

    Args:
        lacking: shares and copies that are missing or damaged.
        away: sites that did not answer, and why; nothing is known of them.
        failed: what could not be told, one sentence each.
    """

    lacking: list[ShareProblem] = field(default_factory=list)
    away: dict[str, ObjectStoreError] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def survey(store: ErasureStore, keys: Iterable[str], *, deep: Container[str] = frozenset()) -> Survey:
    """Compare all sites, and change nothing.

    Args:
        keys: objects that must be there.
        deep: of these copies are compared, and those shares are read that a plain read of the object does not need.
    """
    found = Survey()
    listings = _listings(store, found.away)

    def look(key: str) -> dict[ErasureSite, str]:
        there = {site: listing.get(key) for site, listing in listings.items()}
        try:
            if store.is_shared(key):
                bad = _bad_shares(store, there)
                spare = [site for site in there if site.number >= store.scheme.needed and site not in bad]
                return bad | (_damaged_shares(store, key, spare) if key in deep else {})
            return _bad_copies(key, there, deep=key in deep)[1]
        except (Damaged, ObjectStoreError) as error:
            found.failed.append(f"{key}: {error}")
            return {}

    every = sorted(set(keys))
    for key, bad in zip(every, each(look, every, threads=_READERS), strict=True):
        found.lacking.extend(ShareProblem(site.name, key, what) for site, what in bad.items())
    return found


def unfinished_packs(store: ErasureStore) -> dict[str, datetime]:
    """By key the packs of which too few shares are there to read them, and when the newest was written.

    Of a write that runs or was broken off, or lost: the log tells. None while a site does not answer or has no pack at
    all, since it may be that one which lost them.
    """
    away: dict[str, ObjectStoreError] = {}
    listings = _listings(store, away, layout.PACKS)
    if away or not all(listings.values()):
        return {}
    written: dict[str, list[datetime]] = {}
    for listing in listings.values():
        for key, info in listing.items():
            if store.is_shared(key):
                written.setdefault(key, []).append(info.modified_at)
    return {key: max(moments) for key, moments in written.items() if len(moments) < store.scheme.needed}


def _listings(
    store: ErasureStore, away: dict[str, ObjectStoreError], prefix: str = ""
) -> dict[ErasureSite, dict[str, ObjectInfo]]:
    """What each site has; who does not answer is added to ``away``."""
    listings: dict[ErasureSite, dict[str, ObjectInfo]] = {}
    for site in store.sites.all:
        answer = site.ask(lambda found: {info.key: info for info in found.list(prefix)})
        if answer.error is None:
            listings[site] = answer.value
        else:
            away[site.name] = answer.error
    return listings


def _bad_shares(store: ErasureStore, there: Mapping[ErasureSite, ObjectInfo | None]) -> dict[ErasureSite, str]:
    """By site what its listing shows to be wrong with its share."""
    told = store.scheme.size_of({site.number: info.size_bytes for site, info in there.items() if info is not None})
    return {
        site: "missing" if info is None else "of a wrong size"
        for site, info in there.items()
        if info is None or told is None or site.number not in told[1]
    }


def _repair_shares(
    store: ErasureStore, key: str, there: Mapping[ErasureSite, ObjectInfo | None], report: SharesReport, *, deep: bool
) -> None:
    infos = {site: info for site, info in there.items() if info is not None}
    if len(infos) < store.scheme.needed and report.away:
        return  # nobody knows
    if len(infos) < store.scheme.needed:
        report.unfinished[key] = max(info.modified_at for info in infos.values())
        return
    bad = _bad_shares(store, there)
    if deep:
        bad |= _damaged_shares(store, key, [site for site in infos if site not in bad])
    if not bad:
        return
    shares = make_shares(store.scheme, store.shares.whole(key))
    for site, what in bad.items():
        _write(site, key, shares[site.number], report, what, missing=there[site] is None)


def _damaged_shares(store: ErasureStore, key: str, sites: list[ErasureSite]) -> dict[ErasureSite, str]:
    described = store.shares.described(key)
    damaged = {}
    for site in sites:
        try:
            found, _ = read_share(site.do(lambda one: one.get(key)), store.scheme, site.number, f"{site.name}: {key}")
        except Damaged:
            damaged[site] = "damaged"
            continue
        if found != described:
            damaged[site] = "another object's"
    return damaged


def _repair_copies(
    key: str, there: Mapping[ErasureSite, ObjectInfo | None], report: SharesReport, *, deep: bool
) -> None:
    data, bad = _bad_copies(key, there, deep=deep)
    for site, what in bad.items():
        _write(site, key, data, report, what, missing=there[site] is None)


def _bad_copies(
    key: str, there: Mapping[ErasureSite, ObjectInfo | None], *, deep: bool
) -> tuple[bytes, dict[ErasureSite, str]]:
    """What most copies say, and by site what is wrong with the others. Raises Damaged: no two agree."""
    sizes = {info.size_bytes for info in there.values() if info is not None}
    if all(there.values()) and len(sizes) == 1 and not deep:
        return b"", {}
    copies: dict[bytes, list[ErasureSite]] = {}
    for site, info in there.items():
        if info is not None:
            copies.setdefault(site.do(lambda one: one.get(key)), []).append(site)
    ranked = sorted(copies.items(), key=lambda one: len(one[1]), reverse=True)
    if not ranked:
        return b"", dict.fromkeys(there, "missing")
    if len(ranked) > 1 and len(ranked[0][1]) == len(ranked[1][1]):
        names = ", ".join(site.name for _, sites in ranked for site in sites)
        raise Damaged(f"{names} hold different copies, and no two agree; the vault's signatures say which is right")
    data, good = ranked[0]
    bad = {site: "missing" if info is None else "another copy" for site, info in there.items() if site not in good}
    return data, bad


def _write(site: ErasureSite, key: str, data: bytes, report: SharesReport, what: str, *, missing: bool) -> None:
    if missing:
        written = site.do(lambda store: create_or_read(store, key, data)) == data
        if not written:
            report.failed.append(f"{site.name}: {key}: something else was written there meanwhile")
            return
    else:
        site.do(lambda store: store.put(key, data, mode=OVERWRITE))
    report.repaired.append(ShareProblem(site.name, key, what))
    report.repaired_bytes += len(data)
