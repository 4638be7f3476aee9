"""What the test files of the suite share: where a run takes place, what it must equal, and which seeds there are."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.training.loops import FLAVOURS
from faults.training.orchestrator import Orchestration
from faults.training.scenario import Scenario, undisturbed
from faults.training.stores import SITES, Place
from faults.training.tally import Tally


def chosen_seeds(count: int) -> Sequence[int]:
    """The suite's seeds, or those of ``HOLDFAST_TRAINING_SEEDS=17,18``."""
    given = os.environ.get("HOLDFAST_TRAINING_SEEDS")
    return [int(seed) for seed in given.split(",")] if given else range(count)


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
