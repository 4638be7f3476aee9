"""AzCopy, into an Azure container from S3 or another container, where the binary is on the PATH.

The target's connection has the account as ``login`` and a ``sas_token`` in its extra; AzCopy reads S3 keys from its
environment. AzCopy copies from service to service: the bytes do not pass through this machine.
(`azcopy copy <https://learn.microsoft.com/azure/storage/common/storage-ref-azcopy-copy>`_)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from holdfast.engine.config import Cloud, Connection
from holdfast.engine.replication.movers.interface import Hop, Moved, MoveFailed
from holdfast.errors import ConfigError

#: Beyond this the names do not fit into a command line; then the whole folder is staged.
_NAMES_BYTES = 60_000
_TAIL_BYTES = 2000


class AzCopy:
    """One hop by AzCopy, as a process.

    Args:
        find: where a program is, by its name; ``None``: it is not there.
        start: starts a process: arguments, its environment, where its output goes.
    """

    name = "azcopy"

    def __init__(
        self,
        hop: Hop,
        *,
        find: Callable[[str], str | None] = shutil.which,
        start: Callable[[list[str], Mapping[str, str], IO[bytes]], Any] | None = None,
    ) -> None:
        self._hop, self._find, self._start = hop, find, start or _start
        self._processes: dict[str, tuple[Any, IO[bytes]]] = {}

    @staticmethod
    def unusable(hop: Hop, *, find: Callable[[str], str | None] = shutil.which) -> str | None:
        """Why it cannot serve this hop; ``None``: it can."""
        if hop.target.cloud is not Cloud.AZURE or hop.source.cloud not in (Cloud.AWS, Cloud.AZURE):
            return f"it copies from S3 or Azure Blob into Azure Blob, not {hop.source.cloud} to {hop.target.cloud}"
        for connection in (
            hop.target_connection,
            *([hop.source_connection] if hop.source.cloud is Cloud.AZURE else []),
        ):
            if not (connection.login and connection.extra.get("sas_token")):
                return f"the connection {connection.conn_id!r} has no account and `sas_token`"
        if hop.source.cloud is Cloud.AWS and not (hop.source_connection.login and hop.source_connection.password):
            return f"the connection {hop.source_connection.conn_id!r} has no access key for AzCopy"
        return None if find("azcopy") else "the program azcopy is not on the PATH"

    def begin(self, names: Sequence[str]) -> str:
        program = self._find("azcopy")
        if program is None:
            raise ConfigError("azcopy is not there", where="PATH", expected="the program azcopy", found="nothing")
        hop = self._hop
        command = [
            program,
            "copy",
            self._source(),
            _blob_url(hop.target_connection, hop.target.bucket, hop.target_prefix()),
            "--recursive",
            "--overwrite=false",
            "--check-length=true",
            "--output-level=essential",
        ]
        listed = ";".join(names)
        if len(listed.encode()) <= _NAMES_BYTES and not any(";" in name for name in names):
            command.append(f"--include-path={listed}")
        said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would hold the process up
        process = self._start(command, self._environ(), said)
        handle = f"process {process.pid}"
        self._processes[handle] = (process, said)
        return handle

    def look(self, handle: str) -> Moved:
        process, said = self._process(handle)
        code = process.poll()
        if code is None:
            return Moved("running", handle)
        said.seek(0)
        text = said.read()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return Moved("done" if code == 0 else "failed", f"exit {code}: {text}")

    def cancel(self, handle: str) -> None:
        process, _ = self._process(handle)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)

    def _process(self, handle: str) -> tuple[Any, IO[bytes]]:
        try:
            return self._processes[handle]
        except KeyError:
            raise MoveFailed(
                "this process did not start that transfer",
                where=self.name,
                expected="a handle of `begin`",
                found=handle,
            ) from None

    def _source(self) -> str:
        hop = self._hop
        if hop.source.cloud is Cloud.AZURE:
            return _blob_url(hop.source_connection, hop.source.bucket, hop.source_prefix() + "*")
        return f"https://s3.{hop.source.region}.amazonaws.com/{hop.source.bucket}/{hop.source_prefix()}*"

    def _environ(self) -> dict[str, str]:
        keys = self._hop.source_connection
        environ = dict(os.environ)
        if self._hop.source.cloud is Cloud.AWS:
            environ |= {"AWS_ACCESS_KEY_ID": keys.login or "", "AWS_SECRET_ACCESS_KEY": keys.password or ""}
        return environ


def _blob_url(connection: Connection, container: str, prefix: str) -> str:
    host = connection.host or f"https://{connection.login}.blob.core.windows.net"
    sas = str(connection.extra["sas_token"]).lstrip("?")
    return f"{host.rstrip('/')}/{container}/{prefix}?{sas}"


def _start(command: list[str], environ: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=dict(environ), stdout=output, stderr=subprocess.STDOUT)
