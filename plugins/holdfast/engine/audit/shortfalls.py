"""What an export that was sealed is not: at every site of the topology, in two clouds, locked where that was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holdfast.engine.audit.ledger import Copied
from holdfast.engine.audit.problems import Kind, Problem
from holdfast.engine.config import Topology
from holdfast.engine.config.references import cloud_of

#: Of a seal that is lost with one cloud.
ONE_CLOUD = "one-cloud"


def where_it_lacks(topology: Topology, copied: Sequence[Copied]) -> Iterator[Problem]:
    """The sites that do not have a seal; and that those which do are of one cloud."""
    for one in copied:
        if one.error is not None:
            yield Problem(
                Kind.INCOMPLETE,
                "site-lacks-seal",
                "the site does not have the seal; the next export brings it",
                one.site,
                "it",
                str(one.error)[:500],
            )
    holding = [one.site for one in copied if one.error is None]
    if len({cloud_of(topology.site(site)) for site in holding}) < 2:
        yield Problem(
            Kind.INCOMPLETE,
            ONE_CLOUD,
            "the seal lies in one cloud alone, and is lost with it",
            ", ".join(holding),
            "two clouds at least",
            f"{len(holding)} of {len(copied)} sites",
        )
