"""The view of one event as OCSF: what its bytes give, of every kind of source."""

from __future__ import annotations

import json

import pytest

from benchmarks import cloud_events, cloudtrail_events
from holdfast.engine.audit import views
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.views import SOURCE, VIEW, check_view, view_files
from holdfast.engine.snapshot.documents import canonical

REAL = {
    "cloudtrail": cloudtrail_events.events,
    "cloud-logging": cloud_events.gcp,
    "azure-monitor": cloud_events.azure,
    "kubernetes": cloud_events.kubernetes,
}
SEALED = {"cloud": {"account": {"uid": "prod"}}}


def checked(files: dict[str, bytes], raw: bytes) -> Answer:
    answer = Answer("proof")
    check_view(files, raw, answer)
    return answer


@pytest.mark.parametrize("kind", REAL)
def test_a_view_is_what_the_bytes_give(kind: str) -> None:
    views_of = set()
    for raw in [*REAL[kind](5), b"not json", b"[]"]:
        files = view_files(kind, raw, SEALED)
        assert set(files) == {SOURCE, VIEW}
        answer = checked(files, raw)
        assert answer.problems == []
        assert bool(answer.notes) == (kind == "kubernetes")  # its bytes lack the cluster's name
        views_of.add(files[VIEW])
        for forged in (b"", b"{}", b"[]", b"[" * 100_000, b"\xff", files[VIEW][:-1] + b',"message":"nice"}', None):
            changed = {**files, VIEW: forged}
            given = {name: data for name, data in changed.items() if data is not None}
            assert checked(given, raw).verdict == "tampered", forged
    assert len(views_of) >= 5


def test_of_kubernetes_the_cluster_alone_is_as_it_was_sealed() -> None:
    (raw,) = cloud_events.kubernetes(1)
    files = view_files("kubernetes", raw, SEALED)
    event = json.loads(files[VIEW])
    assert event["cloud"]["account"]["uid"] == "prod"
    event["actor"]["user"]["name"] = "mallory"
    assert checked({**files, VIEW: canonical(event)}, raw).verdict == "tampered"
    del event["cloud"]
    assert checked({**files, VIEW: canonical(event)}, raw).verdict == "tampered"


def test_what_another_version_made_otherwise_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    (raw,) = cloudtrail_events.events(1)
    monkeypatch.setattr(views, "__version__", "0.0.1")
    files = view_files("cloudtrail", raw, {})
    files[SOURCE] = canonical({**json.loads(files[SOURCE]), "version": "0.0.1"})
    monkeypatch.undo()
    assert checked(files, raw).problems == []
    answer = checked({**files, VIEW: b'{"class_uid":3002}'}, raw)
    assert [problem.code for problem in answer.problems] == ["view-of-another-version"]
    assert answer.exit_code == 7


def test_of_a_kind_nobody_knows_there_is_no_view() -> None:
    files = view_files("other", b"raw", {})
    assert set(files) == {SOURCE}
    answer = checked(files, b"raw")
    assert answer.verdict == "fine"
    assert "no view" in answer.notes[0]
    assert checked({**files, VIEW: b"{}"}, b"raw").verdict == "tampered"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"kind": "cloudtrail"}', b"\xff", b"[" * 100_000])
def test_a_source_that_is_none_is_tampered(data: bytes) -> None:
    (raw,) = cloudtrail_events.events(1)
    files = view_files("cloudtrail", raw, {})
    assert checked({**files, SOURCE: data}, raw).verdict == "tampered"
