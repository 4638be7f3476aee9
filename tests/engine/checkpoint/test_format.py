"""The checkpoint format: bytes that never change, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checkpoint.worlds import manifest_of
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, blob_key, digest_of, model_digest, parse_manifest

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
KEY = "runs/market-risk-volatility/checkpoints/000000000120.000002.json"


def golden() -> bytes:
    return (GOLDEN / "000000000120.000002.json").read_bytes()


def test_the_golden_manifest_is_read_and_written_byte_for_byte() -> None:
    manifest = parse_manifest(golden(), where=KEY)
    assert (manifest.step, manifest.epoch, manifest.run) == (120, 2, "market-risk-volatility")
    assert manifest.key == KEY
    assert manifest.data == golden()
    assert manifest.digest == (GOLDEN / "digest.txt").read_text().strip()


def test_a_flipped_bit_anywhere_is_not_taken_for_the_same_checkpoint() -> None:
    data, digest = golden(), parse_manifest(golden(), where=KEY).digest
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        try:
            found = parse_manifest(bytes(changed), where=KEY)
        except CheckpointUnreadable:
            continue
        assert found.digest != digest


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"format":"holdfast.checkpoint/2"}'])
def test_what_is_no_manifest_is_refused_with_its_key(data: bytes) -> None:
    with pytest.raises(CheckpointUnreadable) as refused:
        parse_manifest(data, where=KEY)
    assert KEY in str(refused.value)


def test_a_manifest_under_another_steps_key_is_refused() -> None:
    with pytest.raises(CheckpointUnreadable, match="another step or epoch"):
        parse_manifest(golden(), where=KEY.replace("120.", "130."))


def test_the_same_meaning_in_other_bytes_is_refused() -> None:
    with pytest.raises(CheckpointUnreadable, match="canonical"):
        parse_manifest(golden() + b"\n", where=KEY)


def test_a_model_of_one_file_has_that_files_digest() -> None:
    data = b"the model"
    one = {
        "model.ubj": BlobRef(digest=digest_of(data), size_bytes=len(data)),
        "rest": BlobRef(digest=digest_of(b"rest"), size_bytes=4),
    }
    assert model_digest(one, ["model.ubj"]) == digest_of(data)
    assert model_digest(one, ["model.ubj", "rest"]) not in {digest_of(data), digest_of(b"rest")}


def test_a_blob_key_has_no_character_that_a_store_may_refuse() -> None:
    assert blob_key("run", digest_of(b"x")).partition("blobs/")[2].replace("-", "").isalnum()


def test_keys_sort_by_step() -> None:
    keys = [manifest_of(step)[0].key for step in (9, 10, 100, 99_999, 1_000_000)]
    assert keys == sorted(keys)


def test_the_jobs_heartbeat_and_the_sites_are_two_formats() -> None:
    from holdfast.engine.checkpoint.heartbeat import FORMAT as OF_THE_JOB
    from holdfast.engine.health.heartbeat import FORMAT as OF_THE_SITE

    assert OF_THE_JOB == "holdfast.job-heartbeat/1"
    assert OF_THE_SITE == "holdfast.heartbeat/1"
    documented = (Path(__file__).resolve().parents[3] / "docs/formats/checkpoint.md").read_text()
    assert f"`{OF_THE_JOB}`" in documented
    assert f"`{OF_THE_SITE}`" not in documented
