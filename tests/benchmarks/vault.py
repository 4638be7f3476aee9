"""``make bench-vault``: the vault beside restic, on the same files, the same server and the same disk in the same run.

About 2 GiB: 20,000 small files and six Parquet files. Per place (an S3 in memory; a folder): a first backup, one after
a change of a twentieth, one without a change, a restore, which is compared with the source, one into memory where the
machine has such a folder, and a verification that reads everything. Then one object of 2 GiB, for the memory it takes.
Each command is a process of its own, as a user would start it; what is measured is its processor time, wall time and
peak memory, not the server's.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import Case, Cost, run_measured, write_results
from restic_binary import find_restic
from serving import KEY, SECRET, airflow_connection, serve_s3

HERE = Path(__file__).parent
WORKER, SET = HERE / "vault_worker.py", HERE / "mixed_set.py"
HOLDFAST = Path(sys.executable).parent / "holdfast"
OURS, RESTIC = "holdfast", "restic"
PACKAGES = ["holdfast", "obstore", "blake3", "cryptography", "pyfastcdc", "zstandard", "pyarrow"]
MIB = 1 << 20
PEAK_BYTES = 400 * MIB
STORED_PER_CHANGED = 1.5
#: The issue's bars, to S3: ours / restic's processor time, at most.
BARS = {"first backup": 1 / 3, "incremental": 1 / 2.5, "restore": 1 / 1.5}
LISTING = "its listing alone"
MEMORY = Path("/dev/shm")
#: An installed package has its bytecode, and so has ours here.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
METRICS = (("cpu_seconds", "s"), ("wall_seconds", "s"), ("peak_bytes", "B"))


@dataclass(frozen=True)
class Size:
    """What the set is made of."""

    small_files: int
    small_mib: int
    parquet_files: int
    parquet_mib: int
    object_mib: int

    @property
    def whole_mib(self) -> int:
        return self.small_mib + self.parquet_files * self.parquet_mib


WHOLE = Size(20_000, 466, 6, 256, 2048)
QUICK = Size(2_000, 46, 2, 64, 256)


@dataclass(frozen=True)
class Place:
    """Where a round's repositories lie.

    Args:
        name: ``S3`` or ``disk``.
        ours: what `vault_worker.py` is told.
        restic: the repository's location.
        folder: on this machine; of restored files, too.
    """

    name: str
    ours: str
    restic: str
    folder: Path
    environment: Mapping[str, str]


@dataclass
class Bench:
    """The set, the contenders, and what was measured: costs by place, step and contender."""

    size: Size
    work: Path
    restic: Path | None
    engine_alone: bool = False
    costs: dict[tuple[str, str, str], list[Cost]] = field(default_factory=lambda: defaultdict(list))
    stored: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def source(self) -> Path:
        return self.work / "set" / "files"

    @property
    def contenders(self) -> tuple[str, ...]:
        return (OURS, RESTIC) if self.restic else (OURS,)

    # -- commands ----------------------------------------------------------------------------------------------------

    def command(self, contender: str, verb: str, place: Place, folder: Path | None = None) -> list[str]:
        """A user's command."""
        if contender == OURS and (self.engine_alone or verb == "list"):
            return [sys.executable, str(WORKER), verb, place.ours, *([str(folder)] if folder else [])]
        if contender == OURS:
            words = {
                "init": ["init"],
                "backup": ["backup", "tree", str(folder), "--name", "bench"],
                "restore": ["restore", "--to", str(folder)],
                "verify": ["verify", "--depth", "full"],
            }
            return [str(HOLDFAST), "vault", *words[verb]]
        arguments = {
            "init": ["init"],
            "backup": ["backup", str(folder)],
            "restore": ["restore", "latest", "--target", str(folder)],
            "verify": ["check", "--read-data"],
        }
        return [str(self.restic), "-r", place.restic, "--quiet", *arguments[verb]]

    def run(self, contender: str, verb: str, place: Place, folder: Path | None = None) -> Cost:
        command = self.command(contender, verb, place, folder)
        return run_measured(command, place.environment, timeout_seconds=1800)

    def size_of(self, contender: str, place: Place) -> int:
        """Bytes of a contender's repository."""
        if place.name == "disk":
            folder = Path(place.ours) / "vault" if contender == OURS else Path(place.restic)
            return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        prefix = (place.ours, "vault") if contender == OURS else (RESTIC, "repository")
        command = [sys.executable, str(WORKER), "size", *prefix]
        return _told(command, "size_bytes", place.environment)

    # -- places ------------------------------------------------------------------------------------------------------

    @contextmanager
    def place(self, name: str) -> Iterator[Place]:
        """New, empty repositories of every contender."""
        with self._folder() as folder:
            environment = {
                "BENCH_VAULT_IDENTITY": str(folder / "identity"),
                "HOLDFAST_TOPOLOGY": str(folder / "holdfast.yaml"),
                **COMPILED,
                "RESTIC_PASSWORD": "correct horse battery staple",
                "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            if name == "disk":
                environment["AIRFLOW_CONN_SRC"] = json.dumps({"conn_type": "fs"})
                found = Place(name, str(folder / OURS), str(folder / RESTIC), folder, environment)
                yield self._initialised(found)
                return
            with serve_s3(folder / "server.log", "memory") as server:
                environment["AIRFLOW_CONN_SRC"] = json.dumps(airflow_connection(server.url))
                repository = f"s3:{server.url}/bench/{RESTIC}/repository"
                yield self._initialised(Place(name, OURS, repository, folder, environment))

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A new folder for a round, which goes when all rounds are done, less what takes room."""
        folder = Path(tempfile.mkdtemp(prefix="round-", dir=self.work))
        try:
            yield folder
        finally:
            for name in (OURS, RESTIC, "restic-cache"):
                shutil.rmtree(folder / name, ignore_errors=True)

    def _initialised(self, place: Place) -> Place:
        subprocess.run([sys.executable, str(WORKER), "topology", place.ours], check=True, env=env(place))
        for contender in self.contenders:
            self.run(contender, "init", place)
        return place

    # -- a round -----------------------------------------------------------------------------------------------------

    def step(self, place: Place, step: str, run: Callable[[str], Cost], contenders: tuple[str, ...] = ()) -> None:
        for contender in contenders or self.contenders:
            cost = run(contender)
            self.costs[place.name, step, contender].append(cost)
            print(
                f"  {place.name}, {step}, {contender}: {cost.cpu_seconds:.2f} CPU-s, {cost.wall_seconds:.1f} s, "
                f"{cost.peak_bytes // MIB} MiB",
                flush=True,
            )

    def round(self, place: Place) -> None:
        def backed_up(contender: str) -> Cost:
            return self.run(contender, "backup", place, self.source)

        self.step(place, "first backup", backed_up)
        before = {contender: self.size_of(contender, place) for contender in self.contenders}
        changed = _told([sys.executable, str(SET), "change", str(self.source.parent)], "changed_bytes")
        self.step(place, "incremental", backed_up)
        for contender in self.contenders:
            grown = self.size_of(contender, place) - before[contender]
            self.stored[place.name, contender].append(grown / changed)
        self.step(place, "no change", backed_up)
        self.step(place, LISTING, lambda _: self.run(OURS, "list", place, self.source), (OURS,))
        self.step(place, "restore", lambda contender: self.restored(contender, place, self.source))
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * self.size.whole_mib * MIB:
            self.step(place, "restore into memory", lambda contender: self.restored_into_memory(contender, place))
        self.step(place, "full verify", lambda contender: self.run(contender, "verify", place))

    def restored(self, contender: str, place: Place, source: Path) -> Cost:
        """A restore into a new folder; what it brought is compared afterwards, and emptied."""
        target = place.folder / f"restored-by-{contender}"
        cost = self.run(contender, "restore", place, target)
        found = target if contender == OURS else target / source.relative_to("/")
        subprocess.run(["diff", "--recursive", "--brief", str(source), str(found)], check=True)
        # Not removed yet: ext4 passes over every inode that was freed in the last minutes, and the next restore pays.
        for file in target.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        return cost

    def restored_into_memory(self, contender: str, place: Place) -> Cost:
        """A restore without a disk: what the file system takes for 20,000 new files depends on what it did before."""
        with tempfile.TemporaryDirectory(dir=MEMORY, prefix="holdfast-bench-") as folder:
            return self.run(contender, "restore", place, Path(folder))

    def one_object(self, place: Place) -> None:
        """One large object out and back, for the memory it takes."""
        folder, title = self.work / "object", f"one object of {self.size.object_mib} MiB"
        self.step(place, f"{title}, backup", lambda contender: self.run(contender, "backup", place, folder))
        self.step(place, f"{title}, restore", lambda contender: self.restored(contender, place, folder))

    # -- results -----------------------------------------------------------------------------------------------------

    def cases(self) -> list[Case]:
        """Everything measured so far, ours beside restic's and the bars."""
        cases: list[Case] = []
        for place, step, contender in self.costs:
            if contender != OURS:
                continue
            title = f"{place}: {step}"
            for metric, unit in METRICS:
                target = BARS.get(step) if (place, metric) == ("S3", "cpu_seconds") else None
                cases.append(self._beside(title, metric, unit, place, step, target))
            cases.append(_against(title, "peak_bytes", "B", self._values(place, step, OURS, "peak_bytes"), PEAK_BYTES))
        for place, contender in self.stored:
            if contender == OURS:
                title, values = f"{place}: incremental", self.stored[place, OURS]
                cases.append(_against(title, "stored_per_changed", "", values, STORED_PER_CHANGED))
                theirs = self.stored.get((place, RESTIC), [])
                cases.append(_compared(title, "stored_per_changed", "", values, theirs, None))
        for place, step, contender in self.costs:
            if step == LISTING:
                mine, alone = (self._values(place, one, contender, "cpu_seconds") for one in ("no change", LISTING))
                value, limit = statistics.median(mine), statistics.median(alone)
                title = f"{place}: no change"
                cases.append(Case(title, "cpu_seconds", "s", value, LISTING, limit, value / limit, None, mine))
        return cases

    def _values(self, place: str, step: str, contender: str, metric: str) -> list[float]:
        return [float(getattr(cost, metric)) for cost in self.costs.get((place, step, contender), [])]

    def _beside(self, title: str, metric: str, unit: str, place: str, step: str, target: float | None) -> Case:
        ours, theirs = (self._values(place, step, contender, metric) for contender in (OURS, RESTIC))
        return _compared(title, metric, unit, ours, theirs, target)


def _compared(title: str, metric: str, unit: str, ours: list[float], theirs: list[float], target: float | None) -> Case:
    value = statistics.median(ours)
    if not theirs:
        return Case(title, metric, unit, value, None, None, None, target, ours)
    other = statistics.median(theirs)
    return Case(title, metric, unit, value, RESTIC, other, value / other if other else None, target, ours)


def _against(title: str, metric: str, unit: str, values: list[float], bar: float) -> Case:
    value = statistics.median(values)
    return Case(title, metric, unit, value, "the bar", bar, value / bar, 1.0, values)


def env(place: Place) -> dict[str, str]:
    return {**os.environ, **place.environment}


def _told(command: list[str], name: str, environment: Mapping[str, str] | None = None) -> int:
    """The number a command prints as ``name=N``."""
    output = subprocess.check_output(command, env={**os.environ, **(environment or {})}, text=True, timeout=1800)
    return next(int(line.partition("=")[2]) for line in output.splitlines() if line.startswith(f"{name}="))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench/vault.json"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--place", default="S3,disk", help="where to, with a comma between")
    parser.add_argument("--quick", action="store_true", help="a small set, for a first look: too small for the bars")
    parser.add_argument("--without-object", action="store_true", help="leave the one large object out")
    parser.add_argument("--engine", action="store_true", help="ours by a script that starts the engine, not the CLI")
    parser.add_argument("--without-restic", action="store_true", help="measure ours alone")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its servers and folders go with it
    size = QUICK if options.quick else WHOLE
    work = (options.output.parent / ("vault-quick" if options.quick else "vault")).resolve()
    found = None if options.without_restic else find_restic(options.output.parent.resolve() / "restic")
    bench = Bench(size, work, found[0] if found else None, options.engine)
    if found:
        print(f"==> restic {found[1]}")
    prepare(bench, with_object=not options.without_object)
    atexit.register(lambda: [shutil.rmtree(folder) for folder in work.glob("round-*")])
    versions = {RESTIC: found[1]} if found else {}
    try:
        measure(bench, options)
    finally:
        if bench.costs:
            write_results(options.output, bench.cases(), PACKAGES, versions)


def prepare(bench: Bench, *, with_object: bool) -> None:
    """The files, made once; then read once, so that every contender finds them in memory."""
    package = importlib.util.find_spec("holdfast")
    assert package is not None
    assert package.origin is not None
    compiled = [sys.executable, "-m", "compileall", "-q", str(Path(package.origin).parent)]
    subprocess.run(compiled, check=True, env={**os.environ, **COMPILED})
    print("==> the set", flush=True)
    size = bench.size
    numbers = [size.small_files, size.small_mib, size.parquet_files, size.parquet_mib]
    subprocess.run([sys.executable, str(SET), "make", str(bench.work / "set"), *map(str, numbers)], check=True)
    if with_object:
        file = bench.work / "object" / "model.bin"
        subprocess.run([sys.executable, str(SET), "object", str(file), str(size.object_mib)], check=True)
    everything = ["find", str(bench.work / "set"), "-type", "f", "-exec", "cat", "{}", "+"]
    subprocess.run(everything, check=True, stdout=subprocess.DEVNULL)


def measure(bench: Bench, options: argparse.Namespace) -> None:
    for number in range(options.rounds):
        for name in options.place.split(","):
            print(f"==> round {number + 1}, {name}", flush=True)
            with bench.place(name) as place:
                bench.round(place)
    if not options.without_object:
        print("==> one large object")
        with bench.place("S3") as place:
            bench.one_object(place)


if __name__ == "__main__":
    main()
