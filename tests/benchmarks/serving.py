"""Servers for the benchmark of the sync: `rclone serve s3` in memory, and what it cost them to serve."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RCLONE = Path(sys.executable).parent / "rclone"
MEMORY_S3 = Path(__file__).with_name("memory_s3.py")
KEY, SECRET, BUCKET = "holdfast", "holdfast-secret", "bench"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _commands(kind: str, port: int) -> list[str]:
    if kind == "memory":
        return [sys.executable, str(MEMORY_S3), str(port)]
    return [
        str(RCLONE), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY},{SECRET}", "--log-level", "ERROR", ":memory:",
    ]  # fmt: skip


@contextmanager
def serve_s3(log: Path, kind: str) -> Iterator[Server]:
    """An S3 that keeps everything in its memory; it is gone with the context.

    Args:
        kind: ``rclone`` (`rclone serve s3`) or ``memory`` (`memory_s3.py`).
    """
    port = free_port()
    command = _commands(kind, port)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(port, process)
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.args} did not come up") from None
            time.sleep(0.05)


def rclone_remote(name: str, url: str) -> dict[str, str]:
    """A server as a remote of rclone's."""
    prefix = f"RCLONE_CONFIG_{name.upper()}"
    return {
        "RCLONE_CONFIG": os.devnull,
        f"{prefix}_TYPE": "s3",
        f"{prefix}_PROVIDER": "Rclone",
        f"{prefix}_ENDPOINT": url,
        f"{prefix}_ACCESS_KEY_ID": KEY,
        f"{prefix}_SECRET_ACCESS_KEY": SECRET,
    }


def airflow_connection(url: str) -> dict[str, object]:
    """A server as an Airflow connection, which is also how ours is told of it."""
    return {
        "conn_type": "aws",
        "login": KEY,
        "password": SECRET,
        "extra": {
            "region_name": "us-east-1",
            "endpoint_url": url,
            "config_kwargs": {"s3": {"addressing_style": "path"}},
            "service_config": {"s3": {"endpoint_url": url}},
        },
    }


def loopback_bytes_per_second(size_bytes: int = 1 << 30) -> float:
    """What one process can send another through the loopback: the limit of every copy here."""
    code = (
        "import socket,sys\n"
        "s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));b=bytes(1<<20)\n"
        "for _ in range(int(sys.argv[2])>>20): s.sendall(b)\n"
        "s.close()"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        sender = subprocess.Popen([sys.executable, "-c", code, str(listener.getsockname()[1]), str(size_bytes)])
        connection, _ = listener.accept()
        buffer = memoryview(bytearray(1 << 20))
        started, received = time.perf_counter(), 0
        while count := connection.recv_into(buffer):
            received += count
        seconds = time.perf_counter() - started
        connection.close()
        sender.wait(30)
    assert received == size_bytes
    return size_bytes / seconds


def checksum_rates(size_bytes: int = 256 << 20) -> Mapping[str, float]:
    """Bytes per second and core of the checksums a verified copy computes. In a process of its own."""
    code = (
        "import os,sys,time,blake3\n"
        "from awscrt import checksums\n"
        "d=os.urandom(1<<20)*(int(sys.argv[1])>>20)\n"
        "for f in (lambda: checksums.crc64nvme(d), lambda: blake3.blake3(d).digest()):\n"
        "    t=time.perf_counter(); f(); print(len(d)/(time.perf_counter()-t))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code, str(size_bytes)], timeout=60, text=True)
    crc, digest = (float(line) for line in output.split())
    return {"CRC-64/NVME": crc, "BLAKE3": digest}
