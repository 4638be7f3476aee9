"""What the test files of the suite share: where a run takes place, what it must equal, and which seeds there are."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from faults.training.loops import FLAVOURS
from faults.training.orchestrator import Orchestration, Violation
from faults.training.scenario import Life, Scenario, at_write, draw, undisturbed
from faults.training.stores import SITES, Place
from faults.training.tally import Tally

#: Runs per adapter, each with a seed of its own.
SEEDS = {"plain": 36, "sklearn": 36, "xgboost": 36, "lightgbm": 36, "torch": 64}


def chosen_seeds(adapter: str) -> Sequence[int]:
    """The suite's seeds, or those of ``HOLDFAST_TRAINING_SEEDS=17,18``."""
    given = os.environ.get("HOLDFAST_TRAINING_SEEDS")
    return [int(seed) for seed in given.split(",")] if given else range(SEEDS[adapter])


def telling(adapter: str, flavour: int, count: int = 4) -> list[Scenario]:
    """The first seeds whose checkpoints are at the standby when a process ends: a mutant has something to forget."""
    drawn = (draw(adapter, seed) for seed in range(SEEDS[adapter]))
    telling = [replace(one, flavour=flavour) for one in drawn if one.pace == "replicated" and one.sites == "folders"]
    return telling[:count]


@dataclass
class Suite:
    """Runs scenarios and remembers what undisturbed runs end with."""

    folder: Path
    endpoint: Callable[[], str]
    tally: Tally = field(default_factory=Tally)
    _references: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)

    def run(self, scenario: Scenario, *, mutant: str | None = None, protocol: str | None = None) -> None:
        """Raises Violation."""
        reference = self.reference(scenario.adapter, scenario.flavour)
        tally = self.tally if mutant is None and protocol is None else Tally()
        Orchestration(scenario, self.place(scenario), reference, tally, mutant=mutant, protocol=protocol).run()

    def run_until_violation(self, scenarios: Iterable[Scenario], **wrong: str) -> None:
        """Run mutants, one after the other. Raises Violation: the first one that is found out."""
        for scenario in scenarios:
            self.run(scenario, **wrong)

    def writes(self, adapter: str) -> int:
        """How many writes an undisturbed process of `at_write` makes."""
        calm = replace(at_write(adapter, 1), lives=(Life(),))
        orchestration = Orchestration(calm, self.place(calm), None, Tally())
        orchestration.run()
        return int(orchestration.last_said("finished")["writes"])

    def run_at_every_write(self, adapter: str) -> None:
        """A run for each write of a process; the process dies right before it. Raises Violation, naming the write."""
        writes, before = self.writes(adapter), self._killed_before()
        for nth in range(1, writes + 1):
            try:
                self.run(at_write(adapter, nth))
            except Violation as violation:
                raise Violation(f"killed before write {nth}: {violation}") from violation
        assert self._killed_before() - before == writes

    def _killed_before(self) -> int:
        return sum(count for name, count in self.tally.items() if name.startswith("killed before "))

    def require_all_met(self, request: pytest.FixtureRequest, planned: int, *more: str) -> None:
        """Every kind of fault happened in the runs of this file, unless only some of its tests were to run."""
        selected = [one for one in request.session.items if one.path == request.path]
        if len(selected) < planned:
            pytest.skip(f"{len(selected)} of {planned} tests of this file were selected")
        print(*sorted(self.tally.items()), sep="\n")
        assert self.tally.absent(*more) == []

    def reference(self, adapter: str, flavour: int) -> tuple[Any, ...]:
        """The final state of a run nobody disturbed."""
        which = adapter, flavour % FLAVOURS[adapter]
        if which not in self._references:
            calm = undisturbed(*which)
            self._references[which] = Orchestration(calm, self.place(calm), None, Tally()).run()
        return self._references[which]

    def place(self, scenario: Scenario) -> Place:
        """New sites with nothing in them."""
        name = uuid.uuid4().hex
        folder = self.folder / name
        for site in (*SITES, "witness"):
            (folder / site).mkdir(parents=True)
        if scenario.sites == "folders":
            return Place(folder)
        return Place(folder, self.endpoint(), name)


def s3_server() -> Iterator[str]:
    """An emulated S3 in this process, with the sites' buckets."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    for site in (*SITES, "witness"):
        client.create_bucket(Bucket=site, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    try:
        yield url
    finally:
        server.stop()
