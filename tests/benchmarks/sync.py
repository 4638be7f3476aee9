"""``make bench-sync``: replication from the emulated AWS to the emulated Google Cloud, beside Airflow's own operator.

The same objects, between the same emulators, in the same run, each side in a process of its own, interleaved. Ours
hashes the source, copies, reads the replica back and publishes it; `S3ToGCSOperator` copies. Both are bound by the
emulators, so a ratio says something about the client's work, and nothing about a cloud.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from harness import Case, Cost, compare, print_peak, run_measured, write_results

ROOT = Path(__file__).parents[2]
SOURCE, TARGET = "aws-eu-west-1", "gcp-europe-west1"
WORKLOADS = {"small: 400 x 64 KiB": (400, 64 * 1024), "large: 4 x 64 MiB": (4, 64 * 1024 * 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench/sync.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=["holdfast", "airflow"])
    parser.add_argument("--dataset")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.dataset)
        return
    from holdfast.sandbox import Sandbox

    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        box = Sandbox(folder, topology=ROOT / "include" / "holdfast.yaml", owner_pid=os.getpid())
        box.up(timeout=120, agents=False)
        try:
            environment = {
                **box.environment(),
                "AIRFLOW_HOME": str(Path(folder) / "airflow"),
                "PYTHONWARNINGS": "ignore",
            }
            os.environ.update(environment)
            for name, (count, size_bytes) in WORKLOADS.items():
                print(f"==> {name}")
                cases += workload(name, count, size_bytes, environment, options.rounds)
        finally:
            box.down()
    write_results(options.output, cases, ["obstore", "apache-airflow", "apache-airflow-providers-google", "moto"])


def workload(name: str, count: int, size_bytes: int, environment: dict[str, str], rounds: int) -> list[Case]:
    """Both sides copy equal but separate folders, a new one each round."""
    from holdfast.engine.runtime import Runtime

    store = Runtime.from_environment().store(SOURCE)

    def side(worker_name: str, number: int) -> Cost:
        dataset = f"bench-{worker_name}-{size_bytes}-{number}"
        for index in range(count):
            store.put(f"data/{dataset}/part-{index:05d}.bin", index.to_bytes(4, "big") * (size_bytes // 4))
        command = [sys.executable, __file__, "--worker", worker_name, "--dataset", dataset]
        cost = run_measured(command, environment, timeout_seconds=600)
        for index in range(count):
            store.delete(f"data/{dataset}/part-{index:05d}.bin")
        return cost

    return compare(
        name, lambda n: side("holdfast", n), "S3ToGCSOperator", lambda n: side("airflow", n), rounds=rounds, target=None
    )


def worker(side: str, dataset: str) -> None:
    """One measured copy."""
    if side == "holdfast":
        from holdfast.engine.replication import replicate
        from holdfast.engine.runtime import Runtime
        from holdfast.engine.snapshot import publish, take

        runtime = Runtime.from_environment()
        source, target = runtime.store(SOURCE), runtime.store(TARGET)
        taken = take(source, dataset=dataset, path=dataset, clock=runtime.clock)
        record = publish(source, taken, epoch=1, site=SOURCE, parent=None, clock=runtime.clock)
        report = replicate(
            source,
            target,
            record=record,
            source_site=SOURCE,
            target_site=TARGET,
            residency=None,
            topology_sites=runtime.topology.sites,
            clock=runtime.clock,
        )
        assert report.verified_objects == record.object_count
    else:
        from airflow.providers.google.cloud.transfers.s3_to_gcs import S3ToGCSOperator

        operator = S3ToGCSOperator(
            task_id="copy",
            bucket="holdfast-eu-west-1",
            prefix=f"data/{dataset}/",
            aws_conn_id="holdfast_aws",
            gcp_conn_id="holdfast_gcp",
            dest_gcs=f"gs://holdfast-europe-west1/copied/{dataset}/",
        )
        assert len(operator.execute({})) > 0
    print_peak()


if __name__ == "__main__":
    main()
