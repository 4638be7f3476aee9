"""The policy: what is encoded, as what, and what stays as it is."""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.checkpoint.compression import AUTO_BYTES_MIN, BlobEncoder, Compression, Policy, sample_of
from holdfast.engine.checkpoint.encoding import decoded
from holdfast.engine.checkpoint.format import BlobRef, digest_of
from holdfast.engine.config.models import CheckpointCompression
from holdfast.errors import ConfigError

RNG = np.random.default_rng(0)
WEIGHTS = (RNG.standard_normal(200_000) * 0.02).astype("<f4").tobytes()
NOISE = RNG.bytes(len(WEIGHTS))


def form(policy: str, data: bytes, level: int = 1) -> tuple[BlobRef, bytes]:
    return BlobEncoder(Compression(policy, level)).form(data, digest_of(data))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(Policy)),
    st.one_of(st.binary(max_size=500), st.builds(lambda part: part * 3000, st.binary(min_size=1, max_size=60))),
)
def test_whatever_the_policy_the_content_comes_back(policy: Policy, data: bytes) -> None:
    reference, stored = form(policy, data)
    assert (reference.content, reference.content_bytes) == (digest_of(data), len(data))
    assert (reference.digest, reference.size_bytes) == (digest_of(stored), len(stored))
    assert len(stored) <= len(data)
    if reference.encoding is None:
        assert stored == data
    else:
        assert len(stored) < len(data)
        assert b"".join(bytes(block) for block in decoded([stored], reference, where="a test")) == data


def test_floating_point_is_shuffled_by_its_width() -> None:
    wide = RNG.standard_normal(100_000)
    half = (np.frombuffer(WEIGHTS, "<u4") >> 16).astype("<u2").tobytes()  # bfloat16
    assert form("auto", WEIGHTS)[0].encoding == "zstd-shuffled-4"
    assert form("auto", half)[0].encoding == "zstd-shuffled-2"
    assert form("auto", np.round(wide, 2).tobytes())[0].encoding in ("zstd", "zstd-shuffled-8")


def test_text_is_not_shuffled() -> None:
    assert form("auto", b'{"learning_rate": 0.1, "step": 12345} ' * 5000)[0].encoding == "zstd"


def test_auto_leaves_alone_what_saves_too_little_and_what_is_small() -> None:
    assert form("auto", NOISE) == (BlobRef(digest=digest_of(NOISE), size_bytes=len(NOISE)), NOISE)
    small = bytes(AUTO_BYTES_MIN - 1)
    assert form("auto", small)[0].encoding is None
    assert form("auto", small + b"\0")[0].encoding == "zstd"
    # Seven eighths noise: an eighth can be saved, of which Zstandard finds nearly all; with 15/16 it is not enough.
    assert form("auto", NOISE + bytes(len(NOISE) // 7))[0].encoding is not None
    assert form("auto", NOISE + bytes(len(NOISE) // 15))[0].encoding is None


def test_zstd_encodes_whatever_becomes_smaller_and_nothing_else() -> None:
    assert form("zstd", bytes(100))[0].encoding is not None
    assert form("zstd", NOISE + bytes(len(NOISE) // 15))[0].encoding is not None
    assert form("zstd", NOISE)[0].encoding is None
    assert form("zstd", b"")[0].encoding is None


def test_none_encodes_nothing() -> None:
    assert form("none", bytes(10_000_000))[0].encoding is None


def test_a_sample_is_of_the_whole_blob_and_keeps_elements_whole() -> None:
    numbers = np.arange(3_000_001, dtype="<u8")
    sample = np.frombuffer(sample_of(numbers.tobytes()), "<u8")
    assert sample.nbytes == 1024 * 1024
    assert sample[0] == 0
    assert sample[-1] > 2_990_000
    assert set(np.diff(sample)[: 8 * 1024 - 1]) == {1}
    assert sample_of(b"short") == b"short"


def test_what_a_sample_missed_is_stored_plain_after_all() -> None:
    encoder = BlobEncoder(Compression("auto"))
    data = bytearray(RNG.bytes(16 * 1024 * 1024))
    for at in range(0, 16 * 1024 * 1024, 1024 * 1024):  # the sample's parts lie near these
        data[at : at + 192 * 1024] = bytes(192 * 1024)
    reference, _ = encoder.form(bytes(data), digest_of(data))
    honest = reference.encoding is None or reference.size_bytes <= 0.9 * len(data)
    assert honest


def test_a_blob_comes_out_the_same_again_or_not_at_all() -> None:
    encoder = BlobEncoder(Compression("auto"))
    reference, stored = encoder.form(WEIGHTS, digest_of(WEIGHTS))
    assert encoder.again(WEIGHTS, reference) == stored
    assert encoder.again(WEIGHTS, BlobRef(digest=digest_of(WEIGHTS), size_bytes=len(WEIGHTS))) == WEIGHTS
    assert encoder.again(WEIGHTS, reference.model_copy(update={"digest": digest_of(b"another version's")})) is None
    assert BlobEncoder(Compression("none")).again(WEIGHTS, reference) is None


@pytest.mark.parametrize(("policy", "level"), [("best", 1), ("", 1), ("auto", 0), ("zstd", 20), ("zstd", True)])
def test_an_unknown_policy_or_level_is_refused(policy: str, level: int) -> None:
    with pytest.raises(ConfigError, match="there is no such compression"):
        Compression(policy, level)


def test_the_topology_knows_the_same_policies() -> None:
    assert set(get_args(CheckpointCompression.model_fields["policy"].annotation)) == set(Policy)


def test_without_the_package_a_policy_that_needs_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match="need the package zstandard"):
        Compression("auto")
    assert form("none", WEIGHTS)[0].encoding is None


def test_without_numpy_nothing_is_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert form("zstd", WEIGHTS)[0].encoding == "zstd"
