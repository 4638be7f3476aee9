"""Where content is cut stays as it is: else nothing of older backups would be found again.

Not a matter of the format: every version reads every cut. But a library that cuts elsewhere costs each vault its size
again, and that must not come unnoticed with an update. `python tests/engine/vault/test_cuts.py` writes them anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pyfastcdc.py import FastCDC as PlainFastCDC

from holdfast.engine.vault.chunking import Chunker

CUTS = Path(__file__).parents[2] / "golden" / "vault" / "cuts.json"
KIB = 1024
SEEDS = (1, 0x0123456789ABCDEF, 2**63 - 1)
AVERAGES = (16 * KIB, 64 * KIB, 256 * KIB)


def content(length: int = 2 * 1024 * KIB) -> bytes:
    """Half of it noise, and a long run of one byte, which has no place to cut at."""
    noise = hashlib.shake_256(b"where to cut").digest(length // 2)
    return noise + bytes(length // 8) + b"2026-03-01,101.25\n" * (length // 4 // 18) + noise[: length // 8]


def cuts(average: int, seed: int, data: bytes) -> list[int]:
    return [len(piece) for piece in Chunker(average, seed).cut(data)]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_content_is_cut_where_it_always_was(average: int, seed: int) -> None:
    golden = json.loads(CUTS.read_text())
    assert cuts(average, seed, content()) == golden[f"{average}/{seed}"]


@pytest.mark.parametrize("average", AVERAGES)
def test_another_seed_cuts_elsewhere(average: int) -> None:
    found = [cuts(average, seed, content()) for seed in SEEDS]
    assert len(set(map(tuple, found))) == len(SEEDS)


@pytest.mark.parametrize("piece", [1_000, 65_536, 10**7])
def test_a_stream_is_cut_where_the_same_bytes_in_memory_are(piece: int) -> None:
    data = content()
    pieces = (data[at : at + piece] for at in range(0, len(data), piece))
    stream = [bytes(one) for one in Chunker(64 * KIB, SEEDS[1]).cut_stream(pieces)]
    assert b"".join(stream) == data
    assert [len(one) for one in stream] == cuts(64 * KIB, SEEDS[1], data)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_libraries_plain_python_cuts_at_the_same_places(seed: int) -> None:
    """What it falls back to on a machine without its compiled part."""
    chunker = Chunker(16 * KIB, seed)
    data = content(512 * KIB)
    plain = PlainFastCDC(
        chunker.average_bytes,
        min_size=chunker.smallest_bytes,
        max_size=chunker.largest_bytes,
        normalized_chunking=1,
        seed=seed,
    )
    assert [len(one.data) for one in plain.cut_buf(data)] == cuts(16 * KIB, seed, data)


def test_no_chunk_but_the_last_is_smaller_than_the_least_or_larger_than_the_most() -> None:
    chunker = Chunker(64 * KIB, SEEDS[0])
    found = cuts(64 * KIB, SEEDS[0], content())
    assert all(chunker.smallest_bytes <= length <= chunker.largest_bytes for length in found[:-1])


if __name__ == "__main__":
    golden = {f"{average}/{seed}": cuts(average, seed, content()) for average in AVERAGES for seed in SEEDS}
    CUTS.write_text(json.dumps(golden, indent=None, separators=(", ", ": ")).replace("], ", "],\n ") + "\n")
