"""CloudTrail's chain of digests: what is there, what is missing, what was changed."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudtrail_world import (
    ACCOUNT,
    HOUR,
    REGION,
    START,
    FakeTrailApi,
    Stored,
    Trail,
    TrailBucket,
    inflated,
    public_key,
)
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import AuditSource, Coverage, Document, Finding, Interval, SourceUnreadable, State
from holdfast.engine.audit.sources.cloudtrail import CloudTrail
from holdfast.engine.audit.sources.cloudtrail_chain import TrailStatus, verify_digests
from holdfast.engine.objectstore.errors import ObjectNotFound, PermissionRefused, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectInfo

LONG_AFTER = START + timedelta(days=2)


def source_of(
    trail: Trail,
    *,
    now: datetime = LONG_AFTER,
    api: FakeTrailApi | None = None,
    refused: Mapping[str, Exception] | None = None,
    **kwargs: Any,
) -> CloudTrail:
    store = TrailBucket(trail, refused)
    return CloudTrail("aws-trail", trail.settings(), store, FakeClock(now), api=api or FakeTrailApi(), **kwargs)


class Sealed:
    """What a sealer gets of a window: an interval at a time."""

    def __init__(self, source: CloudTrail, window: Interval) -> None:
        self.coverages: list[Coverage] = []
        self.documents: dict[str, Document] = {}
        self.contents: dict[str, str] = {}
        self.records: list[bytes] = []
        self.unreadable: list[SourceUnreadable] = []
        for interval in source.intervals(window):
            try:
                for batch in source.read(interval):
                    self.contents.update({found.object_id: found.content_sha256 for found in batch.objects})
                    self.records += batch.raw.to_pylist()
            except SourceUnreadable as error:
                self.unreadable.append(error)
            self.coverages.append(source.completeness(interval))
            self.documents.update({document.name: document for document in source.documents(interval)})

    @property
    def states(self) -> list[State]:
        return [coverage.state for coverage in self.coverages]

    def codes(self, hour: int) -> list[str]:
        return [finding.code for finding in self.coverages[hour].findings if finding.state is not State.COMPLETE]

    def offline(self) -> list[Finding]:
        """What a verifier finds in the same, that is not fine."""
        found = verify_digests(list(self.documents.values()), self.contents)
        return [finding for finding in found if finding.state is not State.COMPLETE]

    def offline_codes(self) -> list[str]:
        return sorted(finding.code for finding in self.offline())


def sealed(trail: Trail, hours: int, **kwargs: Any) -> Sealed:
    return Sealed(source_of(trail, **kwargs), trail.window(hours))


@pytest.mark.parametrize("offset", [timedelta(), timedelta(minutes=1, seconds=31)], ids=["full hours", "as real ones"])
@pytest.mark.parametrize(
    "where", [{}, {"prefix": "company/audit"}, {"organization": "o-exampleorgid"}], ids=["plain", "prefix", "org"]
)
def test_an_undamaged_chain_is_complete(offset: timedelta, where: dict[str, Any]) -> None:
    trail = Trail(offset=offset, **where)
    trail.digest(START - HOUR + offset, START + offset, [])
    trail.deliver(3)
    found = sealed(trail, 3)
    assert found.states == [State.COMPLETE] * 3
    assert found.offline() == []
    assert len(found.records) == 18
    assert [coverage.objects for coverage in found.coverages] == [2, 2, 2]
    assert isinstance(source_of(trail), AuditSource)


def test_an_hour_without_events_is_proven_empty_by_its_digest() -> None:
    trail = Trail()
    trail.deliver(1)
    trail.deliver(1, files=0)
    found = sealed(trail, 2)
    assert found.states == [State.COMPLETE] * 2
    assert found.coverages[1].records == 0
    assert found.coverages[1].expected == 1


def test_records_make_the_content_that_was_signed() -> None:
    trail = Trail()
    trail.deliver(2)
    source = source_of(trail)
    for interval in source.intervals(trail.window(2)):
        for batch in source.read(interval):
            start = 0
            for found, count in zip(batch.objects, batch.counts, strict=True):
                records = batch.raw.slice(start, count).to_pylist()
                assert found.content(records) == inflated(trail.objects[found.object_id].data)
                start += count


def test_batches_are_cut_by_size_and_hold_whole_objects() -> None:
    trail = Trail()
    trail.deliver(1, files=5)
    source = source_of(trail, batch_bytes=1)
    batches = list(source.read(trail.window(1)))
    assert [len(batch.objects) for batch in batches] == [1] * 5


def test_reading_again_gives_the_same_records() -> None:
    trail = Trail()
    trail.deliver(1)
    first, second = sealed(trail, 1), sealed(trail, 1)
    assert first.records == second.records
    assert first.contents == second.contents


def test_two_digests_missing_in_a_row_are_two() -> None:
    trail = Trail()
    trail.deliver(5)
    for gone in trail.digests[1:3]:
        del trail.objects[gone]
    found = sealed(trail, 5)
    assert found.states == [State.COMPLETE, State.GAP, State.GAP, State.COMPLETE, State.COMPLETE]
    assert found.codes(1)[0] == "digest-missing"
    assert found.codes(2)[0] == "digest-missing"
    missing = [finding for finding in found.offline() if finding.code == "digest-missing"]
    assert [finding.where for finding in missing] == [trail.digests[2], trail.digests[1]]
    assert {finding.code for finding in found.offline()} == {"digest-missing", "log-unnamed"}


def test_a_removed_digest_and_its_files_are_noticed_together() -> None:
    trail = Trail()
    trail.deliver(3)
    for gone in [trail.digests[1], *trail.logs[2:4]]:
        del trail.objects[gone]
    found = sealed(trail, 3)
    assert found.states == [State.COMPLETE, State.GAP, State.COMPLETE]
    assert found.codes(1) == ["digest-missing"]


def _altered(trail: Trail) -> None:
    trail.change(trail.digests[1], {b'"SHA-256"': b'"SHA-255"'})


def _end_moved(trail: Trail) -> None:
    trail.change(trail.digests[1], {b"2026-03-01T12:00:00Z": b"2026-03-01T12:00:01Z"})


def _signature_lost(trail: Trail) -> None:
    trail.objects[trail.digests[1]].metadata.clear()


def _signature_replaced(trail: Trail) -> None:
    metadata = trail.objects[trail.digests[1]].metadata
    metadata["signature"] = trail.objects[trail.digests[0]].metadata["signature"]


def _algorithm_replaced(trail: Trail) -> None:
    trail.objects[trail.digests[1]].metadata["signature-algorithm"] = "none"


def _swapped(trail: Trail) -> None:
    trail.objects[trail.digests[1]] = trail.objects[trail.digests[0]]


def _garbage(trail: Trail) -> None:
    trail.objects[trail.digests[1]].data = b"not gzip"


def _bomb(trail: Trail) -> None:
    trail.objects[trail.digests[1]].data = gzip.compress(bytes(20 << 20), 1)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_altered, "digest-altered"),
        (_end_moved, "digest-altered"),
        (_signature_lost, "digest-signature-lost"),
        (_signature_replaced, "digest-altered"),
        (_algorithm_replaced, "digest-algorithm"),
        (_swapped, "digest-moved"),
        (_garbage, "digest-unreadable"),
        (_bomb, "digest-unreadable"),
    ],
)
def test_a_damaged_digest_is_a_gap(damage: Any, code: str) -> None:
    trail = Trail()
    trail.deliver(3)
    damage(trail)
    found = sealed(trail, 3)
    assert found.states[1] is State.GAP
    assert code in found.codes(1)
    assert code in found.offline_codes()
    assert found.coverages[1].observed < (found.coverages[1].expected or 0)


def test_a_digest_signed_anew_with_another_key_is_noticed() -> None:
    """The forger has a key of his own, and even has it told beside AWS's."""
    trail = Trail()
    trail.deliver(2)
    forged = Trail(key="forger")
    forged.deliver(2, files=1)
    trail.objects[trail.digests[1]] = forged.objects[forged.digests[1]]
    assert sealed(trail, 2).codes(1)[0] == "key-not-listed"
    both = sealed(trail, 3, api=FakeTrailApi(public_key(), public_key("forger")))
    assert "digest-altered" in both.offline_codes() or "log-unnamed" in both.offline_codes()


def test_the_wrong_key_under_the_right_fingerprint_verifies_nothing() -> None:
    from dataclasses import replace

    trail = Trail()
    trail.deliver(1)
    wrong = replace(public_key(), der=public_key("forger").der)
    assert sealed(trail, 1, api=FakeTrailApi(wrong)).codes(0) == ["digest-altered"]
    nonsense = replace(public_key(), der=b"no key")
    assert sealed(trail, 1, api=FakeTrailApi(nonsense)).codes(0) == ["digest-altered"]


def test_a_key_rotated_mid_chain_is_no_finding() -> None:
    trail = Trail()
    trail.deliver(2)
    trail.key = "second"
    trail.deliver(2)
    found = sealed(trail, 4, api=FakeTrailApi(public_key(), public_key("second")))
    assert found.states == [State.COMPLETE] * 4
    assert found.offline() == []
    assert len([name for name in found.documents if name.startswith("keys/")]) == 2


def test_a_key_outside_its_validity_shows_nothing() -> None:
    from dataclasses import replace

    trail = Trail()
    trail.deliver(1)
    source = source_of(trail)
    old = replace(public_key(), valid_until=START + timedelta(minutes=30))
    source._keys[REGION, old.fingerprint] = old
    found = Sealed(source, trail.window(1))
    assert found.codes(0) == ["key-outside-validity"]
    assert found.states == [State.UNKNOWN]


def test_without_the_public_keys_nothing_is_complete() -> None:
    trail = Trail()
    trail.deliver(1)
    source = CloudTrail("aws-trail", trail.settings(), TrailBucket(trail), FakeClock(LONG_AFTER))
    found = Sealed(source, trail.window(1))
    assert found.states == [State.UNKNOWN]
    assert found.codes(0) == ["key-unknown"]
    assert len(found.records) == 6


def test_a_log_file_that_was_altered_removed_or_added_is_named() -> None:
    trail = Trail()
    trail.deliver(3)
    trail.change(trail.logs[0], {b"event-1": b"event-X"})
    del trail.objects[trail.logs[2]]
    added = trail.log(START + 2 * HOUR + timedelta(minutes=42))
    found = sealed(trail, 3)
    assert [found.codes(hour) for hour in range(3)] == [["log-altered"], ["log-missing"], ["log-unnamed"]]
    assert {(finding.code, finding.where) for finding in found.offline()} == {
        ("log-altered", trail.logs[0]),
        ("log-missing", trail.logs[2]),
        ("log-unnamed", added),
    }


def test_a_log_file_that_is_no_gzip_file_is_altered_and_the_others_are_read() -> None:
    trail = Trail()
    trail.deliver(1)
    trail.objects[trail.logs[0]].data = trail.objects[trail.logs[0]].data[:-9]
    found = sealed(trail, 1)
    assert found.codes(0) == ["log-altered"]
    assert found.offline_codes() == ["log-altered"]
    assert len(found.records) == 3


def test_an_unreadable_file_no_digest_names_is_unknown() -> None:
    trail = Trail()
    trail.deliver(1)
    added = trail.log(START + timedelta(minutes=50))
    trail.objects[added].data = b"junk"
    found = sealed(trail, 1)
    assert found.codes(0) == ["log-unreadable"]
    assert found.states == [State.UNKNOWN]


def test_bytes_after_a_log_file_are_noticed() -> None:
    """awscli calls such a file invalid too: what follows would not be hashed."""
    trail = Trail()
    trail.deliver(1)
    trail.objects[trail.logs[0]].data += gzip.compress(b'{"Records":[]}')
    assert sealed(trail, 1).codes(0) == ["log-altered"]


def test_a_file_is_late_until_the_digest_that_may_name_it_is_due() -> None:
    trail = Trail()
    trail.deliver(1)
    trail.log(START + timedelta(minutes=59))
    early = sealed(trail, 1, now=START + 2 * HOUR)
    assert early.codes(0) == ["log-late"]
    assert early.states == [State.LATE]
    assert early.offline_codes() == ["log-late"]
    assert sealed(trail, 1, now=START + 3 * HOUR).codes(0) == ["log-unnamed"]


def test_a_file_named_by_the_digest_after_its_hour_is_complete() -> None:
    trail = Trail()
    trail.deliver(1)
    late = trail.log(START + timedelta(minutes=59))
    trail.digest(START + HOUR, START + 2 * HOUR, [late])
    found = sealed(trail, 2)
    assert found.states == [State.COMPLETE] * 2
    assert found.offline() == []


def test_a_file_named_by_a_backfill_digest_is_complete() -> None:
    trail = Trail()
    trail.deliver(2)
    late = trail.log(START + timedelta(minutes=30))
    trail.digest(START, START + HOUR, [late], backfill=True)
    found = sealed(trail, 2)
    assert found.states == [State.COMPLETE] * 2
    assert found.offline() == []
    trail.change(late, {b"event-": b"evenT-"})
    assert sealed(trail, 2).codes(0) == ["log-altered"]


def test_an_hour_whose_digest_is_not_due_is_late_and_then_a_gap() -> None:
    trail = Trail()
    trail.deliver(2)
    trail.log(START + 2 * HOUR + timedelta(minutes=5))
    found = sealed(trail, 3, now=START + 3 * HOUR + timedelta(minutes=10))
    assert found.states == [State.COMPLETE, State.COMPLETE, State.LATE]
    assert found.codes(2) == ["digest-due", "log-late"]
    assert sealed(trail, 3, now=START + 6 * HOUR).codes(2) == ["digest-missing", "log-unnamed"]


def test_a_tail_cut_off_is_noticed_at_once_by_what_aws_says() -> None:
    trail = Trail()
    trail.deliver(3)
    del trail.objects[trail.digests[2]]
    delivered = TrailStatus(True, None, START + 3 * HOUR + timedelta(minutes=9))
    found = sealed(trail, 3, now=START + 3 * HOUR + timedelta(minutes=10), api=FakeTrailApi(status=delivered))
    assert found.codes(2)[0] == "digest-missing"
    assert found.states[2] is State.GAP


def test_a_digest_aws_has_not_delivered_itself_is_awaited() -> None:
    trail = Trail()
    trail.deliver(2)
    slow = FakeTrailApi(status=TrailStatus(True, None, START + 2 * HOUR + timedelta(minutes=4)))
    assert sealed(trail, 3, now=START + 6 * HOUR, api=slow).codes(2) == ["digest-due"]
    assert sealed(trail, 3, now=START + 40 * HOUR, api=slow).codes(2) == ["digest-missing"]


def test_a_trail_that_was_stopped_is_told_from_digests_removed() -> None:
    trail = Trail()
    trail.deliver(2)
    trail.stop(2)
    trail.deliver(1)
    found = sealed(trail, 5)
    assert [found.codes(hour) for hour in range(5)] == [[], [], ["chain-restarted"], ["chain-restarted"], []]
    assert found.offline_codes() == ["chain-restarted"] * len(found.offline_codes())


def test_a_trail_that_does_not_log_now_is_told() -> None:
    trail = Trail()
    trail.deliver(1)
    stopped = FakeTrailApi(status=TrailStatus(False, START + HOUR, START + HOUR))
    assert sealed(trail, 2, api=stopped).codes(1) == ["logging-stopped"]


def test_no_digest_at_all_is_a_gap_for_every_hour() -> None:
    trail = Trail()
    trail.deliver(2)
    for digest in trail.digests:
        del trail.objects[digest]
    assert sealed(trail, 2).states == [State.GAP] * 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionRefused("no", found="AccessDenied"), "permission-refused"),
        (PermissionRefused("no", found="400 ExpiredToken: it expired"), "token-expired"),
        (StoreUnavailable("no", throttled=True), "throttled"),
        (StoreUnavailable("no"), "store-unavailable"),
    ],
)
@pytest.mark.parametrize("part", ["list AWSLogs/123456789012/CloudTrail/", "open AWSLogs/123456789012/CloudTrail/"])
def test_log_files_that_may_not_be_read_are_unknown_never_empty(error: Exception, code: str, part: str) -> None:
    trail = Trail()
    trail.deliver(1)
    found = sealed(trail, 1, refused={part: error})
    assert found.states == [State.UNKNOWN]
    assert found.codes(0) == [code]
    assert found.offline_codes() == [code]
    assert [unreadable.code for unreadable in found.unreadable] == [code]


@pytest.mark.parametrize(
    "part", ["list AWSLogs/123456789012/CloudTrail-Digest", "open AWSLogs/123456789012/CloudTrail-Digest"]
)
def test_digests_that_may_not_be_read_are_unknown(part: str) -> None:
    trail = Trail()
    trail.deliver(2)
    found = sealed(trail, 2, refused={part: PermissionRefused("no", found="AccessDenied")})
    assert found.states == [State.UNKNOWN] * 2
    assert found.codes(0) == ["permission-refused"]
    assert set(found.offline_codes()) == {"permission-refused"}
    assert len(found.records) == 12


def test_an_empty_bucket_is_a_gap_and_a_refused_one_is_unknown() -> None:
    trail = Trail()
    assert sealed(trail, 1).states == [State.GAP]
    assert sealed(trail, 1, refused={"": PermissionRefused("no")}).states == [State.UNKNOWN]


def test_what_was_read_before_a_permission_was_narrowed_stays() -> None:
    trail = Trail()
    trail.deliver(1, files=4)
    narrowed = {f"open {trail.logs[2]}": PermissionRefused("no", found="AccessDenied")}
    found = sealed(trail, 1, refused=narrowed)
    assert len(found.records) == 6
    assert found.states == [State.UNKNOWN]
    assert len(found.unreadable) == 1
    assert found.offline_codes() == ["permission-refused"]


def test_one_region_refused_leaves_the_others_read() -> None:
    trail, other = Trail(), Trail(region="eu-central-1")
    trail.deliver(1)
    other.deliver(1)
    trail.objects.update(other.objects)
    api = FakeTrailApi()
    store = TrailBucket(trail, {"/CloudTrail/eu-central-1/": PermissionRefused("no")})
    settings = trail.settings(["eu-central-1", REGION])
    found = Sealed(CloudTrail("aws-trail", settings, store, FakeClock(LONG_AFTER), api=api), trail.window(1))
    assert found.states == [State.UNKNOWN]
    assert len(found.records) == 6
    assert found.coverages[0].observed == 2


def test_a_file_gone_between_listing_and_reading_is_named() -> None:
    trail = Trail()
    trail.deliver(1)
    found = sealed(trail, 1, refused={f"open {trail.logs[0]}": ObjectNotFound("gone")})
    assert found.codes(0) == ["log-altered"]
    assert "gone" in found.offline()[0].detail


@pytest.mark.parametrize("broken", ["token-expired", "throttled", "permission-refused"])
def test_an_api_that_does_not_answer_is_unknown(broken: str) -> None:
    trail = Trail()
    trail.deliver(1)
    api = FakeTrailApi()
    api.broken = broken
    found = sealed(trail, 1, api=api)
    assert found.states == [State.UNKNOWN]
    assert set(found.codes(0)) == {broken, "key-unknown"}


def test_a_slow_clock_does_not_keep_an_hour_open() -> None:
    trail = Trail()
    trail.deliver(6)
    del trail.objects[trail.digests[2]]
    for log in trail.logs[4:6]:
        del trail.objects[log]
    found = sealed(trail, 6, now=START + HOUR)
    assert found.states[2] is State.GAP
    assert "clock-skew" in {finding.code for finding in found.coverages[2].findings}


def test_the_key_of_another_account_or_copy_is_told() -> None:
    trail = Trail(bucket="original")
    trail.deliver(1)
    trail.bucket = "copy"
    found = sealed(trail, 1)
    assert found.states == [State.COMPLETE]
    assert "digest-copied" in {finding.code for finding in found.coverages[0].findings}
    assert ACCOUNT in found.coverages[0].findings[-1].where


def test_a_verifier_without_the_scope_knows_nothing() -> None:
    trail = Trail()
    trail.deliver(1)
    found = sealed(trail, 1)
    documents = [document for document in found.documents.values() if not document.name.startswith("scope/")]
    assert [
        finding.code for finding in verify_digests(documents, found.contents) if finding.state is State.UNKNOWN
    ] == ["scope-missing"]


def test_broken_documents_are_findings_not_errors() -> None:
    trail = Trail()
    trail.deliver(1)
    found = sealed(trail, 1)
    junk: Sequence[Document] = [
        Document("scope/x.json", "application/json", b"[]"),
        Document("keys/x.der", "application/octet-stream", b"x"),
        Document("digests/x.json.gz", "application/gzip", b"x"),
    ]
    codes = [finding.code for finding in verify_digests([*found.documents.values(), *junk], found.contents)]
    assert codes.count("document-unreadable") == 2
    assert codes.count("digest-unreadable") == 1


def test_names_of_documents_are_plain_paths() -> None:
    import re

    trail = Trail(prefix="a b/ü")
    trail.deliver(1)
    found = sealed(trail, 1)
    assert found.states == [State.COMPLETE]
    assert all(re.fullmatch(r"[A-Za-z0-9._=/-]+", name) for name in found.documents)


def test_half_an_hour_reads_its_own_files_alone() -> None:
    trail = Trail()
    trail.deliver(1, files=6)
    window = Interval(START + timedelta(minutes=30), START + HOUR)
    found = Sealed(source_of(trail), window)
    assert found.coverages[0].objects == 3
    assert found.states == [State.COMPLETE]


def test_each_digest_is_read_once() -> None:
    trail = Trail(offset=timedelta(minutes=1))
    trail.deliver(4)
    source = source_of(trail)
    Sealed(source, trail.window(4))
    assert isinstance(source._store, TrailBucket)
    digests = [key for key in source._store.reads if "Digest" in key]
    assert len(digests) == len(set(digests)) == 4


def test_an_insight_file_is_read_too() -> None:
    trail = Trail()
    trail.deliver(1)
    key = trail.layout.logs_of("CloudTrail-Insight", REGION, START) + "30Z_0000000000000001.json.gz"
    trail.objects[key] = Stored(
        gzip.compress(b'{"Records":[{"eventVersion":"1.09","eventType":"AwsCloudTrailInsight"}]}')
    )
    found = sealed(trail, 1)
    assert found.states == [State.COMPLETE]
    assert len(found.records) == 7
    assert datetime(2026, 3, 1, tzinfo=UTC) < START


def test_files_of_the_pages_before_a_listing_broke_are_read() -> None:
    class Breaking(TrailBucket):
        def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
            for number, info in enumerate(super().list(prefix, start_after=start_after)):
                if number == 3 and "/CloudTrail/" in prefix:
                    raise StoreUnavailable("no more pages", throttled=True)
                yield info

    trail = Trail()
    trail.deliver(1, files=5)
    source = CloudTrail("aws-trail", trail.settings(), Breaking(trail), FakeClock(LONG_AFTER), api=FakeTrailApi())
    found = Sealed(source, trail.window(1))
    assert len(found.records) == 9
    assert found.codes(0) == ["throttled"]


def test_a_file_that_is_too_large_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail()
    trail.deliver(1)
    monkeypatch.setattr("holdfast.engine.audit.sources.cloudtrail_fetching.MAX_FILE_BYTES", 10)
    found = sealed(trail, 1)
    assert found.codes(0) == ["log-altered"] * 2
    assert "at most 10 bytes" in found.offline()[0].detail


def _damaged(trail: Trail, number: int, position: int, how: str) -> str:
    """One change of one object of the trail, anywhere; what was done."""
    keys = sorted(trail.objects)
    key = keys[number % len(keys)]
    stored = trail.objects[key]
    content = bytearray(inflated(stored.data))
    at = position % len(content)
    if how == "remove":
        del trail.objects[key]
    elif how == "flip":
        content[at] ^= 1 << (position % 8)
    elif how == "cut":
        del content[at:]
    elif how == "drop":
        del content[at : at + 5]
    elif how == "insert":
        content[at:at] = b"1"
    elif how == "swap":
        other = keys[(number + 1) % len(keys)]
        trail.objects[key], trail.objects[other] = trail.objects[other], stored
    elif how == "double":
        trail.objects[f"{key[:-12]}9{key[-11:]}"] = stored
        return f"{how} {key}"
    elif stored.metadata:
        name = sorted(stored.metadata)[position % len(stored.metadata)]
        stored.metadata[name] = stored.metadata[name][:-1] + ("0" if stored.metadata[name][-1] != "0" else "1")
    else:
        del trail.objects[key]
    if how in ("flip", "cut", "drop", "insert"):
        stored.data = gzip.compress(bytes(content), mtime=0)
    return f"{how} {key} at {at}"


_HOWS = ["remove", "flip", "cut", "drop", "insert", "swap", "double", "metadata"]
_DAMAGES = given(st.integers(0, 100), st.integers(0, 5000), st.sampled_from(_HOWS))


def _no_damage_is_missed(number: int, position: int, how: str) -> None:
    trail = Trail()
    trail.deliver(2)
    done = _damaged(trail, number, position, how)
    found = sealed(trail, 2)
    assert State.GAP in found.states, done
    assert State.GAP in {finding.state for finding in found.offline()}, done


@settings(max_examples=25, deadline=None)
@_DAMAGES
@example(number=0, position=96, how="flip")  # a digest's end, moved to a time of which no key is known
def test_no_damage_is_missed(number: int, position: int, how: str) -> None:
    _no_damage_is_missed(number, position, how)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@_DAMAGES
def test_none_of_many_damages_is_missed(number: int, position: int, how: str) -> None:
    _no_damage_is_missed(number, position, how)


def test_what_is_sealed_cannot_be_changed_either() -> None:
    """Without the store: each content hash, digest and piece of metadata counts."""
    trail = Trail()
    trail.deliver(2)
    found = sealed(trail, 2)
    documents = list(found.documents.values())
    for key in found.contents:
        for changed in ({**found.contents, key: "0" * 64}, {k: v for k, v in found.contents.items() if k != key}):
            assert State.GAP in {finding.state for finding in verify_digests(documents, changed)}
    for left_out in documents:
        rest = [document for document in documents if document is not left_out]
        assert {finding.state for finding in verify_digests(rest, found.contents)} - {State.COMPLETE}


def test_digests_of_a_trail_whose_name_begins_alike_are_another_chain() -> None:
    trail = Trail()
    trail.deliver(2)
    for key in trail.digests:
        alike = key.replace("_main-trail_eu-west-1_", "_main-trail_eu-west-1_b_eu-west-1_")
        trail.objects[alike] = trail.objects[key]
    found = sealed(trail, 2)
    assert found.states == [State.COMPLETE] * 2


def test_a_window_in_another_time_zone_is_the_same() -> None:
    trail = Trail()
    trail.deliver(2)
    ist = timezone(timedelta(hours=5, minutes=30))
    window = Interval(START.astimezone(ist), (START + 2 * HOUR).astimezone(ist))
    found = Sealed(source_of(trail), window)
    assert found.states == [State.COMPLETE] * 2
    assert found.offline() == []


def test_an_hour_sealed_again_is_judged_by_what_was_found_last() -> None:
    trail = Trail()
    trail.deliver(1)
    late = trail.log(START + timedelta(minutes=59))
    first = sealed(trail, 1, now=START + 2 * HOUR, refused={f"open {late}": PermissionRefused("no")})
    trail.digest(START + HOUR, START + 2 * HOUR, [late])
    second = sealed(trail, 1)
    assert (first.states, second.states) == ([State.UNKNOWN], [State.COMPLETE])
    assert not set(first.documents).issuperset(name for name in second.documents if name.startswith("scope/"))
    both = [*second.documents.values(), *first.documents.values()]
    found = verify_digests(both, second.contents)
    assert {finding.state for finding in found} == {State.COMPLETE}


def test_two_versions_of_one_digest_are_both_judged() -> None:
    trail, other = Trail(), Trail()
    trail.deliver(1)
    good = sealed(trail, 1)
    other.deliver(1)
    other.change(other.digests[0], {b'"SHA-256"': b'"SHA-255"'})
    bad = sealed(other, 1)
    for documents in (
        [*good.documents.values(), *bad.documents.values()],
        [*bad.documents.values(), *good.documents.values()],
    ):
        assert "digest-altered" in {finding.code for finding in verify_digests(documents, good.contents)}


def test_a_digest_removed_after_it_was_listed_is_missing() -> None:
    trail = Trail()
    trail.deliver(3)
    found = sealed(trail, 3, refused={f"open {trail.digests[1]}": ObjectNotFound("gone")})
    assert found.states == [State.COMPLETE, State.GAP, State.COMPLETE]
    assert found.codes(1)[0] == "digest-missing"


def test_what_is_too_large_for_a_digest_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail()
    trail.deliver(1)
    trail.objects[trail.digests[0]].data += random.Random(1).randbytes(5000)
    monkeypatch.setattr("holdfast.engine.audit.sources.cloudtrail.MAX_FILE_BYTES", 4000)
    found = sealed(trail, 1)
    assert "digest-unreadable" in found.codes(0)
    assert max(len(document.data) for document in found.documents.values()) <= 1024
