"""What the benchmark of the sync runs in processes of their own: ours, Airflow's pattern, and the work around them."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from serving import BUCKET


def store(name: str):
    """The store of the connection in ``AIRFLOW_CONN_<NAME>``."""
    from holdfast.engine.objectstore import open_store

    connection = connection_of(name)
    if connection.conn_type == "aws":
        # As rclone does when tuned; what is sent is vouched for by its CRC-64 then, and by the ETag in the answer.
        connection = connection.model_copy(update={"extra": {**connection.extra, "unsigned_payload": True}})
    return open_store(name, site_of(name), connection)


def connection_of(name: str):
    from holdfast.engine.config import EnvironmentConnections

    return EnvironmentConnections(os.environ).get(name)


def site_of(name: str):
    from holdfast.engine.config import Site

    cloud = {"aws": "aws", "wasb": "azure", "google_cloud_platform": "gcp"}[connection_of(name).conn_type]
    bucket = os.environ.get(f"BENCH_BUCKET_{name.upper()}", BUCKET)
    return Site(cloud=cloud, region="us-east-1", jurisdiction="EU", connection=name, bucket=bucket)


def create_bucket(name: str) -> None:
    import boto3
    from botocore.config import Config

    connection = connection_of(name)
    client = boto3.client(
        "s3", endpoint_url=connection.extra["endpoint_url"], aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password, region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)


def populate(name: str, folder: str, count: int, size_bytes: int, seed: int) -> None:
    """Objects ``0 … count-1`` with bytes of this seed, no two alike."""
    target, block = store(name), random.Random(seed).randbytes(min(size_bytes, 1 << 20) or 1)

    def put(number: int) -> None:
        head = f"{seed}-{number:012}".encode()
        if size_bytes <= len(block):
            target.put(f"data/{folder}/{number % 100:02}/{number:07}", (head + block)[:size_bytes])
            return
        pieces = ((head + block)[: 1 << 20] for _ in range(size_bytes >> 20))
        target.put(f"data/{folder}/{number % 100:02}/{number:07}", pieces)

    with ThreadPoolExecutor(4 if size_bytes > 1 << 20 else 16) as pool:
        list(pool.map(put, range(count)))


def ours(source: str, target: str, dataset: str, folder: str, expected: int) -> None:
    """One sync, pinned, verified by the provider's checksums, published."""
    from holdfast.clock import SystemClock
    from holdfast.engine.config.sync import Sync, Verification
    from holdfast.engine.replication.sync import SyncSite, sync_dataset

    gc.freeze()
    report = sync_dataset(
        SyncSite(source, store(source)), [SyncSite(target, store(target))], dataset=dataset, folder=folder,
        policy=Sync(verify=Verification.PROVIDER), epoch=1, residency=None,
        topology_sites={name: site_of(name) for name in (source, target)}, clock=SystemClock(),
    )  # fmt: skip
    (done,) = report.targets
    if done.error or done.refused or (expected >= 0 and done.copied_objects != expected):
        raise SystemExit(f"expected {expected} objects copied: {done}")


def by_manifest(source: str, target: str, dataset: str, inside: bool) -> None:
    """Is anything missing at the target? Two commit records, two manifests, one join; no listing of objects.

    ``inside``: measured without the start of the process, as a task that plans finds it.
    """
    from holdfast.engine.snapshot import diff, latest, load_manifest

    here, there = store(source), store(target)
    started, before = time.perf_counter(), time.process_time()
    newest, known = latest(here, dataset, epoch=1), latest(there, dataset, epoch=1)
    changes = diff(load_manifest(here, newest), load_manifest(there, known))
    if not changes.is_empty:
        raise SystemExit("expected no change")
    if inside:
        tell(time.perf_counter() - started, time.process_time() - before)


def airflow_s3(source: str, target: str, folder: str) -> None:
    """Airflow's own S3 operators' pattern between two S3s: list, then each object through a temporary file."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    started, before = time.perf_counter(), time.process_time()
    here, there = S3Hook(aws_conn_id=source), S3Hook(aws_conn_id=target)
    present = set(there.list_keys(bucket_name=BUCKET, prefix=f"data/{folder}/") or [])
    for key in here.list_keys(bucket_name=BUCKET, prefix=f"data/{folder}/"):
        if key in present:
            continue
        with tempfile.NamedTemporaryFile() as file:
            here.get_conn().download_fileobj(BUCKET, key, file)
            file.seek(0)
            there.load_file_obj(file_obj=file, key=key, bucket_name=BUCKET, replace=True)
    tell(time.perf_counter() - started, time.process_time() - before)


def airflow_operator(target: str, folder: str) -> None:
    """The operator itself, to Google's or Azure's emulator."""
    bucket = os.environ[f"BENCH_BUCKET_{target.upper()}"]
    prefix = f"data/{folder}"
    if connection_of(target).conn_type == "wasb":
        from airflow.providers.microsoft.azure.transfers.s3_to_wasb import S3ToAzureBlobStorageOperator

        operator = S3ToAzureBlobStorageOperator(
            task_id="copy", aws_conn_id="src", wasb_conn_id=target, s3_bucket=BUCKET, s3_prefix=prefix,
            container_name=bucket, blob_prefix=f"airflow-{folder}",
        )  # fmt: skip
    else:
        from airflow.providers.google.cloud.transfers.s3_to_gcs import S3ToGCSOperator

        operator = S3ToGCSOperator(
            task_id="copy", aws_conn_id="src", gcp_conn_id=target, bucket=BUCKET, prefix=prefix + "/",
            dest_gcs=f"gs://{bucket}/airflow-{folder}/",
        )  # fmt: skip
    started, before = time.perf_counter(), time.process_time()
    if not operator.execute({}):
        raise SystemExit("nothing was copied")
    tell(time.perf_counter() - started, time.process_time() - before)


def tell(wall_seconds: float, cpu_seconds: float) -> None:
    """Without the seconds Airflow takes to be imported: a task has that behind it."""
    print(f"measured={json.dumps([wall_seconds, cpu_seconds])}")


def print_peak() -> None:
    """This process's own peak; RUSAGE of a child may carry its parent's from before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    peak = kilobytes if kilobytes is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak_bytes={peak * 1024}")


def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas by itself: 40 MB and a quarter of a second nobody here has a use for.

    pyarrow tries it once, on its own, at the first `pa.array` of a list, and not again; an explicit `to_pandas` still
    finds it. Only for a process of our own: in somebody else's it would change what `pa.array` does with a Series.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        with suppress(ImportError, AttributeError):
            pa.array([])
    finally:
        del sys.modules["pandas"]


WORK = {
    "create_bucket": create_bucket,
    "populate": populate,
    "ours": ours,
    "by_manifest": by_manifest,
    "airflow_s3": airflow_s3,
    "airflow_operator": airflow_operator,
}

if __name__ == "__main__":
    if sys.argv[1] in ("ours", "by_manifest"):
        from holdfast.cli.start import load_arrow

        load_arrow()
        leave_pandas_out()
    WORK[sys.argv[1]](*json.loads(sys.argv[2]))
    if sys.argv[1] == "ours" and "pandas" in sys.modules:
        print("pandas was imported: 40 MB and a quarter of a second for nothing", file=sys.stderr)
    print_peak()
