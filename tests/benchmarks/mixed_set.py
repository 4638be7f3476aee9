"""The mixed set of the vault's benchmark: many small files and some large Parquet files, from a seed.

    python mixed_set.py make FOLDER SMALL_FILES SMALL_MIB PARQUET_FILES PARQUET_MIB
    python mixed_set.py change FOLDER          (prints ``changed_bytes=N``)
    python mixed_set.py object FILE MIB

Half of the small files are text that compresses, half are bytes that do not, as pictures are. A change overwrites 13
extents of 1 MiB in each Parquet file and a twentieth of the small files; every change is another.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 1 << 20
EXTENTS = 13
SHARE_CHANGED = 0.05
#: Beside the set, not in it: what it was made of, and how many changes it has seen.
_FACTS = "set.json"


def make(folder: Path, small_files: int, small_mib: int, parquet_files: int, parquet_mib: int) -> None:
    """The set at ``folder/files``, unless it is there already."""
    import numpy as np

    made_of = [small_files, small_mib, parquet_files, parquet_mib]
    facts = folder / _FACTS
    if facts.exists() and json.loads(facts.read_text())["made_of"] == made_of:
        return
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(20_261_129)
    shares = rng.lognormal(0.0, 1.0, small_files)
    sizes = np.maximum(64, shares / shares.sum() * small_mib * MIB).astype(int)
    for number, size in enumerate(sizes):
        file = small_file(folder, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(rng, number, int(size)))
    for number in range(parquet_files):
        write_parquet(rng, folder / "files" / "tables" / f"part-{number}.parquet", parquet_mib * MIB)
    facts.write_text(json.dumps({"made_of": made_of, "changes": 0}))


def small_file(folder: Path, number: int) -> Path:
    return folder / "files" / f"{number % 200:03}" / f"{number:06}.{'csv' if number % 2 else 'bin'}"


def content(rng: Any, number: int, size: int) -> bytes:
    """Bytes of a small file."""
    if number % 2 == 0:
        return bytes(rng.bytes(size))
    rows = rng.integers(0, 1_000_000, (size // 24 + 2, 3))
    text = "".join(f"2026-11-{day % 28 + 1:02},{price / 100},{volume}\n" for day, price, volume in rows.tolist())
    return text.encode()[:size]


def write_parquet(rng: Any, file: Path, size_bytes: int) -> None:
    """A table of features, compressed with zstd, of about this size."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    rows, at = 250_000, 0
    schema = pa.schema(
        [("row", pa.int64()), ("symbol", pa.string()), *((f"feature_{n}", pa.float32()) for n in range(8))]
    )
    symbols = np.array([f"S{n:04}" for n in range(500)])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while file.stat().st_size < size_bytes:
            columns = [np.arange(at, at + rows), symbols[rng.integers(0, len(symbols), rows)]]
            columns += [rng.standard_normal(rows, dtype=np.float32) for _ in range(8)]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
            at += rows


def change(folder: Path) -> None:
    """Change a twentieth of it in place."""
    import numpy as np

    facts = json.loads((folder / _FACTS).read_text())
    small_files, _, parquet_files, _ = facts["made_of"]
    rng = np.random.default_rng(facts["changes"] + 1)
    changed = 0
    for number in rng.choice(small_files, int(small_files * SHARE_CHANGED), replace=False).tolist():
        file = small_file(folder, number)
        size = file.stat().st_size
        file.write_bytes(content(rng, number, size))
        changed += size
    for number in range(parquet_files):
        file = folder / "files" / "tables" / f"part-{number}.parquet"
        slot = file.stat().st_size // EXTENTS
        extent = min(MIB, slot // 2)
        with file.open("r+b") as stream:
            for place in range(EXTENTS):
                stream.seek(place * slot + int(rng.integers(0, slot - extent)))
                stream.write(rng.bytes(extent))
                changed += extent
    (folder / _FACTS).write_text(json.dumps({**facts, "changes": facts["changes"] + 1}))
    print(f"changed_bytes={changed}")


def make_object(file: Path, size_mib: int) -> None:
    """One large file, half of which compresses."""
    import numpy as np

    if file.exists() and file.stat().st_size == size_mib * MIB:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    with file.open("wb") as stream:
        for _ in range(size_mib):
            stream.write(rng.bytes(MIB // 2) + rng.integers(0, 12, MIB // 2, dtype=np.uint8).tobytes())


if __name__ == "__main__":
    verb, where, *numbers = sys.argv[1:]
    verbs: dict[str, Callable[..., None]] = {"make": make, "change": change, "object": make_object}
    verbs[verb](Path(where), *map(int, numbers))
