"""What a vault of shares lacks at one of its sites: nothing is lost yet, and the next site that goes would take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from holdfast.engine.vault import layout
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_repair import survey
from holdfast.engine.vault.erasure_sites import ShareProblem
from holdfast.engine.vault.index import ChunkIndex
from holdfast.engine.vault.vault import Vault

_FIX = "put them back with `holdfast vault verify --repair`"


def lacking_shares(
    vault: Vault, store: ErasureStore, index: ChunkIndex, read: Iterable[int], *, copies: bool
) -> tuple[list[str], list[str]]:
    """What is missing or damaged at some site, and which sites do not answer; one sentence each.

    Args:
        read: numbers of the packs of which the shares are read that reading the pack did not need.
        copies: all copies of everything else are read and compared.
    """
    packs = {layout.pack_key(info.tier, info.pack_id) for info in index.packs}
    others = _copies(vault)
    deep = {layout.pack_key(index.packs[number].tier, index.packs[number].pack_id) for number in read}
    found = survey(store, packs | others, deep=deep | others if copies else deep)
    # What was read meanwhile tells more than the listings: blocks that are damaged, copies that differ.
    noticed = [one for one in store.problems if one.key in packs | others]
    lacking = {(one.site, one.key): one for one in (*noticed, *found.lacking)}
    gone = {site: str(error) for site, error in found.away.items() if not error.transient}
    away = {site: str(error) for site, error in found.away.items() if error.transient}
    away |= {one.site: one.what for one in store.problems if not one.key and one.site not in found.away}
    return (
        [*_sentences(store, lacking.values()), *found.failed, *(f"{site}: {why}" for site, why in gone.items())],
        [f"{site} did not answer, what it holds was not looked at: {why}" for site, why in away.items()],
    )


def _copies(vault: Vault) -> set[str]:
    """What lies whole at each site. The newest entry may just be on its way to the others."""
    history = vault.history
    keys = {layout.index_key(name) for name in history.indexes}
    for number in history.counting:
        if number != history.tip.sequence:
            keys |= {layout.entry_key(number), layout.entry_copy_key(number)}
    keys |= {layout.keyset_key(one, copy) for one in history.keys.keysets.values() for copy in layout.KEY_COPIES}
    return keys


def _sentences(store: ErasureStore, lacking: Iterable[ShareProblem]) -> Iterable[str]:
    by_site: dict[tuple[str, bool], list[ShareProblem]] = {}
    of_object: Counter[str] = Counter()
    for one in sorted(lacking, key=lambda one: (one.site, one.key)):
        by_site.setdefault((one.site, store.is_shared(one.key)), []).append(one)
        of_object[one.key] += 1
    scheme = store.scheme
    for (site, shared), found in by_site.items():
        first = found[0]
        more = "" if len(found) == 1 else f" and of {len(found) - 1} other objects"
        left = scheme.total - max(of_object[one.key] for one in found)
        what = "the share" if shared else "the copy"
        enough = f"{left} of {scheme.total} are good, {scheme.needed if shared else 1} are needed"
        yield f"{site}: {what} of {first.key}{more} is not good there ({first.what}); {enough}: {_FIX}"
