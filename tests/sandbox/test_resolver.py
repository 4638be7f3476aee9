"""The resolver answers from the records the emulated Cloud DNS holds, as DNS demands."""

from __future__ import annotations

import json
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import httpx
import pytest

from holdfast.sandbox import Sandbox
from holdfast.sandbox.resolver import answer
from holdfast.sandbox.zones import RecordSet, ZoneFile, apply_change, new_zone

RECORDS = [
    RecordSet("_s._tcp.x.test.", "SRV", 1, ("0 0 80 host.x.test.",)),
    RecordSet("host.x.test.", "A", 60, ("127.0.0.1",)),
    RecordSet("alias.x.test.", "CNAME", 5, ("host.x.test.",)),
    RecordSet("away.x.test.", "CNAME", 5, ("host.elsewhere.test.",)),
    RecordSet("loop.x.test.", "CNAME", 5, ("loop.x.test.",)),
    RecordSet("big.x.test.", "TXT", 5, tuple(f'"{index:0200d}"' for index in range(10))),
]


@pytest.fixture
def file(tmp_path: Path) -> ZoneFile:
    zones = ZoneFile(tmp_path / "zones.json")
    zone = new_zone({"name": "z", "dnsName": "x.test."}, {})
    zones.write({("p", "z"): apply_change(zone, RECORDS, [])[0]})
    return zones


def ask(file: ZoneFile, name: str, kind: str, *, is_udp: bool = True) -> dns.message.Message:
    wire = answer(dns.message.make_query(name, kind).to_wire(), file, is_udp=is_udp)
    assert wire is not None
    return dns.message.from_wire(wire)


def test_an_srv_record_comes_with_the_address_of_its_host(file: ZoneFile) -> None:
    found = ask(file, "_s._tcp.x.test.", "SRV")
    assert found.answer[0].to_text() == "_s._tcp.x.test. 1 IN SRV 0 0 80 host.x.test."
    assert found.additional[0].to_text() == "host.x.test. 60 IN A 127.0.0.1"
    assert found.flags & dns.flags.AA


def test_an_alias_is_followed_within_the_zone(file: ZoneFile) -> None:
    assert [rrset.rdtype.name for rrset in ask(file, "ALIAS.x.test.", "A").answer] == ["CNAME", "A"]
    assert [rrset.rdtype.name for rrset in ask(file, "away.x.test.", "A").answer] == ["CNAME"]
    assert ask(file, "loop.x.test.", "A").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("nothing.x.test.", "A", dns.rcode.NXDOMAIN),
        ("host.x.test.", "AAAA", dns.rcode.NOERROR),
        ("_tcp.x.test.", "A", dns.rcode.NOERROR),  # a name between names is there, and empty
    ],
)
def test_no_name_and_no_data_are_told_apart_and_both_carry_the_soa(
    file: ZoneFile, name: str, kind: str, rcode: dns.rcode.Rcode
) -> None:
    found = ask(file, name, kind)
    assert found.rcode() == rcode
    assert found.answer == []
    assert found.authority[0].rdtype.name == "SOA"


def test_other_peoples_names_are_refused(file: ZoneFile) -> None:
    assert ask(file, "example.com.", "A").rcode() == dns.rcode.REFUSED


def test_an_answer_too_big_for_a_datagram_is_marked_truncated_and_whole_over_tcp(file: ZoneFile) -> None:
    assert ask(file, "big.x.test.", "TXT").flags & dns.flags.TC
    assert len(ask(file, "big.x.test.", "TXT", is_udp=False).answer[0]) == 10


def test_garbage_is_not_answered(file: ZoneFile) -> None:
    assert answer(b"\x00\x01garbage", file, is_udp=True) is None


def test_a_change_is_seen_by_a_real_client_at_once_over_udp_and_tcp(sandbox: Sandbox) -> None:
    environ = sandbox.environment()
    host, _, port = environ["HOLDFAST_RESOLVER"].partition(":")
    url = json.loads(environ["AIRFLOW_CONN_HOLDFAST_GCP_DNS"])["extra"]["endpoint_url"]
    changes = f"{url}/dns/v1/projects/holdfast-sandbox/managedZones/holdfast-sandbox/changes"
    old: list[dict[str, object]] = []
    for address in ("127.0.0.2", "127.0.0.3"):
        new = [{"name": "seen.holdfast.test.", "type": "A", "ttl": 1, "rrdatas": [address]}]
        httpx.post(changes, json={"additions": new, "deletions": old}).raise_for_status()
        old = new
        for ask_over in (dns.query.udp, dns.query.tcp):
            found = ask_over(dns.message.make_query("seen.holdfast.test.", "A"), host, 2.0, int(port))
            assert found.answer[0].to_text() == f"seen.holdfast.test. 1 IN A {address}"
    httpx.post(changes, json={"deletions": old}).raise_for_status()
