"""Timestamps of RFC 3161 by an authority on loopback (OpenSSL's), verified offline."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.audit.tlog.errors import TimestampRefused
from holdfast.engine.audit.tlog.timestamps import AuthorityUnavailable, fetch_timestamp, verify_timestamp
from holdfast.errors import ConfigError
from timestamp_authority import TimestampAuthority

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the authority is OpenSSL's")

NOTE = b"example.com/ledger\n7\nroot\n\n\xe2\x80\x94 example.com/ledger AAAAAAAA\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthority]:
    found = TimestampAuthority(tmp_path_factory.mktemp("authority"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthority]:
    found = TimestampAuthority(tmp_path_factory.mktemp("other"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def response(authority: TimestampAuthority) -> bytes:
    return fetch_timestamp(authority.url, NOTE, [authority.root])


def test_a_response_that_was_kept_says_when_the_note_existed(authority: TimestampAuthority, response: bytes) -> None:
    found = verify_timestamp(response, NOTE, [authority.root])
    assert abs(datetime.now(UTC) - found.moment) < timedelta(minutes=5)
    assert (found.policy, found.serial_number) == ("1.2.3.4.1", 2)


def test_it_is_refused_for_other_bytes_and_by_other_roots(
    authority: TimestampAuthority, other: TimestampAuthority, response: bytes
) -> None:
    assert verify_timestamp(response, NOTE, [other.root, authority.root])
    with pytest.raises(TimestampRefused):
        verify_timestamp(response, NOTE + b"\n", [authority.root])
    with pytest.raises(TimestampRefused):
        verify_timestamp(response, NOTE, [other.root])


def test_no_byte_of_a_response_can_be_changed_so_that_it_says_another_time(
    authority: TimestampAuthority, response: bytes
) -> None:
    """A few bytes no signature covers and the library does not read, as a version's; what is said may not change."""
    told = verify_timestamp(response, NOTE, [authority.root])
    taken = 0
    for at in range(len(response)):
        changed = response[:at] + bytes([response[at] ^ 1]) + response[at + 1 :]
        with suppress(TimestampRefused):
            assert verify_timestamp(changed, NOTE, [authority.root]) == told, at
            taken += 1
    assert taken < 20
    for cut in (b"", response[:1], response[: len(response) // 2], response[:-1], b"\x30\x03\x02\x01\x02"):
        with pytest.raises(TimestampRefused):
            verify_timestamp(cut, NOTE, [authority.root])


def test_an_older_response_is_not_taken_for_a_new_one(authority: TimestampAuthority, response: bytes) -> None:
    authority.replays = response
    with pytest.raises(TimestampRefused, match="Nonce"):
        fetch_timestamp(authority.url, NOTE, [authority.root])
    authority.replays = None


def test_a_response_of_an_authority_that_is_not_trusted_is_not_kept(
    authority: TimestampAuthority, other: TimestampAuthority
) -> None:
    with pytest.raises(TimestampRefused):
        fetch_timestamp(other.url, NOTE, [authority.root])


def test_an_authority_is_asked_again_when_ill_and_not_when_it_refuses(authority: TimestampAuthority) -> None:
    clock = FakeClock()
    authority.fails = [503, 429]
    assert fetch_timestamp(authority.url, NOTE, [authority.root], clock=clock)
    authority.fails = [503, 500, 502]
    with pytest.raises(AuthorityUnavailable, match="502"):
        fetch_timestamp(authority.url, NOTE, [authority.root], clock=clock)
    asked = authority.requests
    authority.fails = [403]
    with pytest.raises(TimestampRefused, match="403"):
        fetch_timestamp(authority.url, NOTE, [authority.root], clock=clock)
    assert authority.requests == asked + 1


def test_an_authority_that_is_away_or_redirects_is_told(authority: TimestampAuthority, free_port: object) -> None:
    assert callable(free_port)
    with pytest.raises(AuthorityUnavailable, match="ConnectError"):
        fetch_timestamp(f"http://127.0.0.1:{free_port()}/", NOTE, [authority.root], clock=FakeClock())
    with pytest.raises(ConfigError, match="http"):
        fetch_timestamp("file:///etc/passwd", NOTE, [authority.root])
    authority.fails = [302]
    with pytest.raises(TimestampRefused, match="302"):
        fetch_timestamp(authority.url, NOTE, [authority.root])


def test_an_endless_answer_is_cut_off(authority: TimestampAuthority) -> None:
    def endless(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=itertools.repeat(b"\0" * 65536))

    with (
        httpx.Client(transport=httpx.MockTransport(endless)) as client,
        pytest.raises(TimestampRefused, match="more than"),
    ):
        fetch_timestamp("http://127.0.0.1/", NOTE, [authority.root], client=client)


@pytest.mark.parametrize("roots", [[], [b"no certificate"]])
def test_roots_that_are_none_are_refused(response: bytes, roots: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="root"):
        verify_timestamp(response, NOTE, roots)


def test_without_the_library_it_says_what_to_install(response: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(ConfigError, match=r"holdfast\[audit\]"):
        verify_timestamp(response, NOTE, [])
