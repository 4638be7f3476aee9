"""The checkpoint format: bytes that never change, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.checkpoint.worlds import manifest_of
from holdfast.engine.checkpoint.errors import CheckpointUnreadable, FormatUnknown
from holdfast.engine.checkpoint.format import (
    FORMATS,
    BlobRef,
    Encoding,
    blob_key,
    canonical,
    digest_of,
    model_digest,
    parse_manifest,
)

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


@pytest.mark.parametrize(
    "member",
    [
        b'"state":{"position":NaN}',
        b'"state":{"position":1e400}',
        b'"state":{"position":9007199254740993}',
        b'"saved_at":"0001-01-01T00:00:00+05:00"',
    ],
)
def test_a_manifest_that_holds_what_json_or_a_clock_cannot_is_unreadable_and_nothing_worse(member: bytes) -> None:
    name = member.split(b":")[0]
    document = {f'"{key}"'.encode(): canonical(value) for key, value in json.loads(golden()).items()}
    parts = [b"%s:%s" % one for one in document.items() if one[0] != name]
    with pytest.raises(CheckpointUnreadable):
        parse_manifest(b"{" + b",".join(sorted([*parts, member])) + b"}", where=KEY)


def test_every_flipped_bit_is_read_or_unreadable_and_nothing_else() -> None:
    for position in range(len(golden())):
        for bit in range(8):
            changed = bytearray(golden())
            changed[position] ^= 1 << bit
            with suppress(CheckpointUnreadable):
                parse_manifest(bytes(changed), where=KEY)


def test_a_manifest_that_names_another_model_than_its_blobs_is_refused() -> None:
    with pytest.raises(CheckpointUnreadable, match="another model"):
        parse_manifest(changed(golden(), model_digest=digest_of(b"another")), where=KEY)


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


# -- /2: with encoded blobs ------------------------------------------------------------------------------------------

ENCODED_KEY = KEY.replace("120.", "130.")


def encoded() -> bytes:
    return (GOLDEN / "000000000130.000002.json").read_bytes()


def changed(of: bytes, **members: Any) -> bytes:
    return canonical({**json.loads(of), **members})


def with_blob(**members: Any) -> bytes:
    """The golden manifest with other members in its model's blob; ``None`` takes one out."""
    document = json.loads(encoded())
    blob = {**document["blobs"]["model-000.safetensors"], **members}
    document["blobs"]["model-000.safetensors"] = {name: value for name, value in blob.items() if value is not None}
    return canonical(document)


def test_the_golden_manifest_with_encoded_blobs_is_read_and_written_byte_for_byte() -> None:
    manifest = parse_manifest(encoded(), where=ENCODED_KEY)
    assert manifest.data == encoded()
    assert manifest.digest == (GOLDEN / "digest-130.txt").read_text().strip()
    assert (manifest.encoded, manifest.size_bytes, manifest.content_bytes) == (2, 62337 + 2129 + 2, 80000 + 80000 + 2)
    assert manifest.model_digest == manifest.blobs["model-000.safetensors"].content_digest


def test_the_models_digest_does_not_depend_on_how_it_is_stored() -> None:
    blobs = parse_manifest(encoded(), where=ENCODED_KEY).blobs
    plain = {name: BlobRef(digest=blob.content, size_bytes=blob.content_bytes) for name, blob in blobs.items()}
    names = ["model-000.safetensors", "optimizer-000.safetensors"]
    for model in (names, names[:1]):
        assert model_digest(blobs, model) == model_digest(plain, model)


@pytest.mark.parametrize(
    "data",
    [
        changed(encoded(), format="holdfast.checkpoint/1"),
        changed(golden(), format="holdfast.checkpoint/2"),
        with_blob(encoding="brotli"),
        with_blob(encoding="zstd-shuffled-3"),
        with_blob(content_size_bytes=-1),
        with_blob(content_digest="sha256:" + "0" * 64),
        with_blob(encoding=None),
        with_blob(content_digest=None),
        with_blob(content_size_bytes=None),
        with_blob(level=3),
    ],
)
def test_a_manifest_whose_blobs_are_not_what_its_version_has_is_refused(data: bytes) -> None:
    step = json.loads(data)["step"]
    with pytest.raises(CheckpointUnreadable, match="not readable"):
        parse_manifest(data, where=KEY.replace("120.", f"{step}."))


def test_an_absent_member_is_not_written_as_null() -> None:
    data = changed(golden(), blobs={"model.ubj": {**json.loads(golden())["blobs"]["model.ubj"], "encoding": None}})
    with pytest.raises(CheckpointUnreadable, match="canonical"):
        parse_manifest(data, where=KEY)


@pytest.mark.parametrize(
    "data", [changed(encoded(), format="holdfast.checkpoint/3", blobs=[], shards=4), b'{"format":"x"}']
)
def test_a_later_format_is_refused_with_one_clear_error(data: bytes) -> None:
    with pytest.raises(FormatUnknown) as refused:
        parse_manifest(data, where=ENCODED_KEY)
    assert refused.value.found == json.loads(data)["format"]
    assert refused.value.expected == "holdfast.checkpoint/1 or holdfast.checkpoint/2"
    assert "version of holdfast that wrote it" in str(refused.value)


def test_the_formats_are_specified() -> None:
    documented = (Path(__file__).resolve().parents[3] / "docs/formats/checkpoint.md").read_text()
    assert all(f"`{one}`" in documented for one in (*FORMATS, *get_args(Encoding)))


def test_a_manifest_vouches_for_every_one_of_its_bits() -> None:
    manifest, _ = manifest_of(7, write_id="")
    sealed = manifest.model_copy(update={"state": {"position": 10}, "fingerprint": {"torch": "2.13"}}).sealed()
    assert sealed.vouches_for_itself
    assert parse_manifest(sealed.data, where=sealed.key) == sealed
    for bit in range(len(sealed.data) * 8):
        flipped = bytearray(sealed.data)
        flipped[bit // 8] ^= 1 << bit % 8
        with suppress(CheckpointUnreadable):
            found = parse_manifest(bytes(flipped), where=sealed.key)
            # What is left: a flip of the version itself, after which it claims to vouch for nothing.
            assert found.model_copy(update={"write_id": sealed.write_id}) == sealed
            assert found.vouches_for_itself is None


def test_a_manifest_of_an_earlier_version_vouches_for_nothing_and_is_read() -> None:
    manifest, _ = manifest_of(7, write_id="0123456789ab4def8123456789abcdef")
    assert manifest.vouches_for_itself is None
    assert parse_manifest(manifest.data, where=manifest.key) == manifest
