"""The bytes of an acceptor: a golden file, round trips, what is refused. docs/formats/authority.md says the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.authority import EpochState, Operation
from holdfast.engine.authority.acceptor import (
    EMPTY,
    AcceptorState,
    AcceptorUnreadable,
    Ballot,
    decode,
    encode,
    key_of,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "authority" / "acceptor.json"
STATE = AcceptorState(
    promised=Ballot(8, "host-b/17/ab/1f"),
    accepted=Ballot(7, "host-a/42/cd/2e"),
    value=EpochState(
        group="market-risk",
        epoch=3,
        active_site="gcp-europe-west1",
        previous_site="aws-eu-west-1",
        plan_id="plan-20260101",
        holder="host-a/42/cd",
        reason="Störung: aws-eu-west-1 is down",
        committed_at=datetime(2026, 1, 1, 12, 30, 15, 250, tzinfo=UTC),
        write_id="7.host-a/42/cd/2e",
        operation=Operation(
            "plan-20260101",
            "failover",
            "host-a/42/cd",
            datetime(2026, 1, 1, 12, 30, tzinfo=UTC),
            datetime(2026, 1, 1, 13, tzinfo=UTC),
        ),
    ),
)


def test_the_bytes_are_those_of_the_golden_file() -> None:
    assert encode("market-risk", STATE, "8.host-b/17/ab/1f.promise") == GOLDEN.read_bytes()
    assert decode("market-risk", GOLDEN.read_bytes()) == STATE


def test_an_acceptor_lies_where_the_layout_says() -> None:
    assert key_of("market-risk") == "authority/market-risk"


@given(st.builds(AcceptorState, st.builds(Ballot, st.integers(1, 2**53 - 1), st.text(st.characters(codec="utf-8")))))
def test_what_is_written_is_read(state: AcceptorState) -> None:
    assert decode("g", encode("g", state, "w")) == state


def test_an_empty_acceptor_has_promised_nothing() -> None:
    document = json.loads(encode("g", EMPTY, "w"))
    assert (document["promised"], document["accepted"], document["value"]) == (None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "holdfast.acceptor/2"},
        {"group": "other"},
        {"promised": [0, "p"]},
        {"promised": ["1", "p"]},
        {"promised": [True, "p"]},
        {"promised": [1]},
        {"accepted": {}},
        {"value": {}},
        {"value": []},
        {"unheard_of": 1},
    ],
)
def test_what_is_no_acceptor_of_this_group_is_refused(change: dict[str, object]) -> None:
    document = {**json.loads(GOLDEN.read_bytes()), **change}
    with pytest.raises(AcceptorUnreadable, match="authority/market-risk"):
        decode("market-risk", json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'"authority"'])
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(AcceptorUnreadable):
        decode("market-risk", body)
