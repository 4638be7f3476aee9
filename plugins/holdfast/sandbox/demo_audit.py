"""The demo's last chapter: what the three clouds saw of it, in the form of their own audit logs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from holdfast.engine.runtime import Runtime
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.files import write_json
from holdfast.sandbox.supervisor import Sandbox
from holdfast.sandbox.trails.counting import TrailCount, count_trails
from holdfast.sandbox.trails.delivery import Delivered

#: What the trails hold, below the demo's output.
FILE = "audit-trails.json"


@dataclass(frozen=True)
class AuditFigures:
    """What the trails of the demo's clouds hold.

    Args:
        counts: by cloud, as read back from its bucket.
        delivered: what the last delivery added.
    """

    counts: tuple[TrailCount, ...]
    delivered: tuple[Delivered, ...]

    @property
    def passed(self) -> bool:
        return all(one.events > 0 for one in self.counts) and all(one.error is None for one in self.delivered)


def export_own_run(
    sandbox: Sandbox, output: Path, *, say: Callable[[str], object] = lambda _line: None
) -> AuditFigures:
    """Deliver the trails, and read back from every cloud what they hold.

    Args:
        output: the demo's folder; what was found is written there.

    Raises:
        PartFailed: a cloud could not be written to.
        HoldfastError: a trail could not be read.
    """
    delivered = sandbox.deliver_trails()
    for one in delivered:
        if one.error is not None:
            raise PartFailed("the trail was not delivered", where=one.site, found=json.dumps(one.error)[:400])
    # Anew: since the demo began its Airflow has got a connection.
    runtime = Runtime.from_environment(environ={**os.environ, **sandbox.environment()})
    counts = tuple(count_trails(runtime))
    for count in counts:
        say(f"{count.site} delivered {count.events:,} audit events in {count.objects} objects of {count.bucket}")
    write_json(output / FILE, [asdict(count) for count in counts])
    return AuditFigures(counts, tuple(delivered))


def audit_rows(figures: AuditFigures) -> Iterator[tuple[str, str, str, bool | None]]:
    """Claim, objective, measured value and verdict, for the demo's table."""
    for count in figures.counts:
        top = ", ".join(f"{number:,} {name}" for name, number in count.most[:3])
        yield f"Audit trail of {count.site}", "delivered", f"{count.events:,} events: {top}", count.events > 0
