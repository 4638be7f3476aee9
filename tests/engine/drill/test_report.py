"""The report: self-contained, escaped, honest."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from holdfast.engine.drill.report import outcome, render_report
from sample_journal import refused_journal, sample_journal

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Balanced(HTMLParser):
    """Every tag is closed in order; remembers what a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.open, self.outside = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.outside += [
            f"{tag} {name}={value}"
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "action", "data", "srcset") or name.startswith("on")
        ]
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.outside.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_fetches_nothing():
    page = render_report(sample_journal(), key_id="k")
    assert parsed(page).outside == []
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "prefers-color-scheme" in page
    assert "@media print" in page


def test_it_shows_what_the_journal_measured():
    page = render_report(sample_journal())
    for shown in (
        "8.78 s",
        "2.49 s",
        "2.39 s",
        "0.75 s",
        "12,345 B",
        "blake3:" + "5f" * 32,
        "site-outage",
        "0 of 2 attempted",
        "every byte read again",
        "refused: the record was set in a newer epoch",
        "automatically",
        "Passed",
    ):
        assert shown in page, shown


def test_the_timeline_has_every_event():
    page = render_report(sample_journal())
    picture = page[page.index("<svg") : page.index("</svg>")]
    for event in (
        "fault",
        "detection",
        "decision",
        "epoch committed",
        "fence",
        "promote",
        "traffic switched",
        "first right answer",
        "training resumed",
        "fault lifted",
    ):
        assert f">{event}" in picture, event
    numbers = [float(n) for n in re.findall(r'(?:x|x1|width)="(-?[\d.]+)"', picture)]
    assert min(numbers) >= 0
    assert max(numbers) <= 1010


def test_every_text_is_escaped():
    def poison(value):
        if isinstance(value, dict):
            return (
                {k + "<i>": poison(v) if k == "evidence" else v for k, v in value.items()}
                if False
                else {k: poison(v) for k, v in value.items()}
            )
        if isinstance(value, list):
            return [poison(v) for v in value]
        return "<script>alert(1)</script>\"'&" + value if isinstance(value, str) else value

    page = render_report(poison(sample_journal()), key_id="<b>")
    assert parsed(page).outside == []
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "key <code>&lt;b&gt;" in page


@pytest.mark.parametrize(
    "claim",
    [
        "rto_met",
        "rpo_met",
        "stale_writes_refused",
        "model_identical",
        "answers_equal",
        "steady_state_restored",
        "fault_lifted",
    ],
)
def test_one_unknown_claim_is_never_green(claim):
    journal = sample_journal(verdict={claim: None, "passed": None})
    assert outcome(journal)[0] is None
    page = render_report(journal)
    assert "Not proven" in page
    assert "Passed" not in page
    assert "? unknown" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"rto_seconds": {"from_fault": None}},
        {"rpo": {"seconds": None}},
        {"stale_writes": {"accepted": None}},
        {"model": {"digest": None}},
        {"service": {"answers_equal": None}},
        {"steady_state": {"after": None}},
        {"fault": None, "rollback": {"fault_lifted": None}},
    ],
)
def test_a_verdict_without_its_measure_is_unknown(changes):
    """Even when the journal says that it holds."""
    assert outcome(sample_journal(**changes))[0] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rto_seconds": {"from_fault": 61.0}},
        {"rpo": {"seconds": 31}},
        {"stale_writes": {"accepted": 1}},
        {"model": {"reference_digest": "blake3:00"}},
        {"service": {"answers_equal": False}},
        {"deviated": True},
        {"status": "failed"},
        {"verdict": {"passed": False}},
    ],
)
def test_a_measure_that_contradicts_its_verdict_fails(changes):
    assert outcome(sample_journal(**changes))[0] is False


@pytest.mark.parametrize("status", ["aborted", "interrupted"])
def test_a_drill_that_did_not_end_is_not_passed(status):
    assert outcome(sample_journal(status=status))[0] is None


def test_a_refused_drill_has_a_page_of_unknowns():
    page = render_report(refused_journal())
    parsed(page)
    assert "Refused" in page
    assert "another drill has this group" in page
    assert "✓ holds" not in page


def test_what_is_not_proven_is_said():
    page = render_report(sample_journal(model={"digest": None}, verdict={"model_identical": None, "passed": None}))
    assert "fault proxy in front of an emulated cloud" in page
    assert "Same model as the uninterrupted run: unknown" in page


@pytest.mark.parametrize(
    "journal",
    [
        {},
        {"steps": None, "fault": []},
        {"steps": [{"name": "detect", "started_at": "?"}]},
        {"fault": {"injected_at": "2026-01-01T00:00:00+00:00"}},
    ],
)
def test_a_journal_with_holes_still_has_a_page(journal):
    parsed(render_report(journal))
    assert outcome(journal)[0] is None


def test_the_same_journal_gives_the_same_page():
    journal = sample_journal()
    assert render_report(journal) == render_report(json.loads(json.dumps(journal)))
