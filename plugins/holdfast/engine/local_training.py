"""A training that nobody orchestrates: data from a folder, checkpoints and the model in another.

It has what a trainer uses of `Training`, so the same trainer runs on a laptop with plain ``python``. There is one
site, one epoch and no standby: a kill costs nothing but time, and a lost disk costs everything.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.clock import Clock
from holdfast.engine.checkpoint.capturing import SaveMode
from holdfast.engine.checkpoint.checkpointer import Checkpointer
from holdfast.engine.checkpoint.fingerprint import environment_fingerprint
from holdfast.engine.checkpoint.format import digest_of
from holdfast.engine.checkpoint.outcome import Finished
from holdfast.engine.training import open_local
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

CHECKPOINTS, MODEL, HEARTBEAT, LOCK = "checkpoints", "model", "heartbeat.json", "lock"


@dataclass(frozen=True)
class LocalTraining:
    """One training process in a folder.

    Args:
        folder: ``checkpoints/``, ``model/`` and ``heartbeat.json`` lie in it. Its lock is held until `close`, or the
            process's end.
        step_seconds: at least this long per step.
    """

    folder: Path
    checkpointer: Checkpointer
    steps: int
    seed: int
    step_seconds: float
    _table: pa.Table
    _lock: int

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        data: Path,
        steps: int,
        every_steps: int,
        seed: int,
        columns: Sequence[str] = (),
        step_seconds: float = 0.0,
        mode: SaveMode | str = SaveMode.COPY,
        fingerprint: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> LocalTraining:
        """Open the run that is in ``folder``, or begin one.

        Args:
            data: a folder of Parquet files, read in the order of their paths. Their digest is part of the fingerprint.
            every_steps: a checkpoint each so many steps.
            columns: that the data must have.
            mode: see `Checkpointer`.
            fingerprint: what else the numbers depend on, e.g. the precision; see `Training.from_environment`.

        Raises:
            ConfigError: there are no steps, ``data`` holds no such table, or another process trains in ``folder``.
            CheckpointError: there is no such mode or interval.
        """
        if steps < 1:
            raise ConfigError("a training needs steps", where="steps", expected="1 or more", found=str(steps))
        table, digest = _read(data)
        if missing := [name for name in columns if name not in table.column_names]:
            raise ConfigError(
                "the data lacks columns",
                where=str(data),
                expected=", ".join(missing),
                found=", ".join(table.column_names),
            )
        folder.mkdir(parents=True, exist_ok=True)
        checkpointer = Checkpointer(
            open_local(folder / CHECKPOINTS),
            "local",
            epoch=1,
            site="local",
            total_steps=steps,
            every_steps=every_steps,
            mode=mode,
            fingerprint={**environment_fingerprint(("numpy", "pyarrow")), "data": digest, **(fingerprint or {})},
            heartbeat=folder / HEARTBEAT,
            clock=clock,
        )
        return cls(folder, checkpointer, steps, seed, step_seconds, table, _locked(folder / LOCK))

    def dataset(self) -> pa.Table:
        """All files as one table, in path order."""
        return self._table

    def publish_model(self, files: Mapping[str, bytes | Path], finished: Finished) -> Path:
        """Write the finished model's files; each is whole or not there. Returns their folder."""
        target = self.folder / MODEL
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.{os.getpid()}")
            new.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            new.replace(path)
        self.checkpointer.note(published={"folder": str(target), "model_digest": finished.manifest.model_digest})
        return target

    def close(self) -> None:
        """Let another process, or this one, train in the folder."""
        os.close(self._lock)


def _locked(path: Path) -> int:
    """The lock file's descriptor; the kernel lets go of it when the process ends, however it does."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(
            "another process trains in this folder",
            where=str(path.parent),
            expected="one writer",
            found="its lock is held",
            fix="Wait for it, or train in another folder",
        ) from None
    return lock


def _read(data: Path) -> tuple[pa.Table, str]:
    """All Parquet files under a folder as one table, and the digest of their paths and bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # From memory: read by its path, a file in `year=1999/` would gain a column.
    files = {path: path.read_bytes() for path in sorted(data.rglob("*.parquet"))}
    if not files:
        raise ConfigError(
            "there is nothing to train on", where=str(data), expected="a folder with Parquet files", found="none"
        )
    tables = []
    for path, content in files.items():
        try:
            tables.append(pq.read_table(pa.BufferReader(content)))
        except (pa.ArrowException, OSError) as error:
            found = str(error).splitlines()[0]
            raise ConfigError("a file is no Parquet", where=str(path), expected="Parquet", found=found) from None
    listed = "".join(f"{path.relative_to(data).as_posix()} {digest_of(content)}\n" for path, content in files.items())
    try:
        return pa.concat_tables(tables), digest_of(listed.encode())
    except pa.ArrowInvalid as error:
        raise ConfigError(
            "the files do not make one table", where=str(data), expected="the same columns in each", found=str(error)
        ) from None
