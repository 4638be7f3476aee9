"""Personal data in exports: found by place and kind, never shown; what only looks like it is not found."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import Result
from typer.testing import CliRunner

from audit_world import AuditWorld, FakeSource, add_audit, event
from holdfast.cli.main import app
from holdfast.engine.audit import segments
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.privacy import detectors
from holdfast.engine.audit.privacy.detectors import Kind, kinds_of
from holdfast.engine.audit.privacy.discover import Discovery, discover

PEOPLE = ("jane.doe@example.com", "robert.roe@example.com")
CANARIES = {
    Kind.EMAIL: ("canary.person@example.org", "max.müller@bücher.example", "o'neil+x@sub.example.co.uk"),
    Kind.PHONE: ("+49 30 901820", "tel:+442079460958", "+33 1 42 68 53 00"),
    Kind.IBAN: ("DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "paid to NO9386011117947 today"),
    Kind.CARD: ("4111111111111111", "5555 5555 5555 4444", "3782 822463 10005"),
    Kind.IP: ("203.0.113.77", "2001:db8::8a2e:370:7334", "198.51.100.23:51234"),
}
LOOK_ALIKES = (
    "arn:aws:iam::123456789012:role/admin",
    "arn:aws:s3:::bucket/key",
    "12345678-1234-4111-8111-111111111111",
    "4111-1111-1111-1111-1111",
    "4111111111111112",  # a wrong check digit
    "2026-11-29T12:00:00.123456+01:00",
    "1764417600000",
    "1764417600000000000",
    "123456789012",
    "AKIAIOSFODNN7EXAMPLE",
    "DE89370400440532013001",
    "aws-cli/2.15.30 Python/3.11.8 Linux/5.10.205 exe/x86_64",
    "Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36",
    "00:1a:2b:3c:4d:5e",
    "127.0.0.1",
    "::1",
    "1.2.3.4.5",
    "image@sha256:9f86d081884c7d65",
    "collector@project.iam.gserviceaccount.com",
    "p:00112233445566778899aabbccddeeff",
)


def words(text: str) -> list[str]:
    """What of a value must not be seen anywhere: it, and each part that says much."""
    return [text, *(part for part in re.split(r"[\s@:/]", text) if len(part) > 4)]


def found_in(done: Discovery) -> set[tuple[str, str, Kind]]:
    return {(place.part, place.path, place.kind) for place in done.events}


def looked_at(world: AuditWorld) -> Discovery:
    folder = world.export().folder
    assert folder is not None
    return discover(verify_exports([folder], trusted=[world.key])[1])


def of_records(folder: Path, *records: bytes) -> Discovery:
    folder.mkdir(exist_ok=True)
    return looked_at(AuditWorld(folder, AnySource([[list(records)]])))


class AnySource(FakeSource):
    """Its events may be any bytes."""

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        ids = pa.array([f"event-{number}" for number in range(len(raw))], pa.string())
        return ocsf.build(len(raw), {"metadata.uid": ids})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("it asked a network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", "discover", *map(str, arguments)])


@pytest.mark.usefixtures("no_network")
def test_each_kind_is_found_by_its_path_and_no_value_is_told(tmp_path: Path) -> None:
    body = {kind.name.lower(): [{"value": text} for text in texts] for kind, texts in CANARIES.items()}
    world = AuditWorld(tmp_path, FakeSource([[[event(1, body=body), event(2)]]]))
    folder, key = world.export().folder, str(world.key)
    assert folder is not None
    as_json, as_text = run(folder, "--key", key, "--json"), run(folder, "--key", key)
    assert (as_json.exit_code, as_text.exit_code) == (8, 8)
    answer = json.loads(as_json.stdout)
    assert (answer["verdict"], answer["events"]) == ("found", 2)
    assert {(one["source"], one["part"], one["path"], one["kind"], one["count"]) for one in answer["found"]} == {
        ("fake", "raw", f"$.body.{kind.name.lower()}[*].value", kind, 1) for kind in Kind
    }
    assert "$.body.iban[*].value" in as_text.output
    for text in (word for texts in CANARIES.values() for value in texts for word in words(value)):
        assert text not in as_json.output + as_text.output


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in CANARIES.items() for text in texts])
def test_a_value_is_found_inside_of_a_text_as_its_own_kind_alone(kind: Kind, text: str) -> None:
    assert kinds_of(text) == {kind}
    assert kinds_of(f"see ({text}), please") == {kind}


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_looks_alike_is_not_found(text: str) -> None:
    assert kinds_of(text) == frozenset()


def test_a_session_in_an_arn_and_an_address_in_a_url_are_found() -> None:
    assert kinds_of("arn:aws:sts::123456789012:assumed-role/admin/jane.doe@example.com") == {Kind.EMAIL}
    assert kinds_of("https://api.example.com/users/jane.doe%40example.com/keys") == {Kind.EMAIL}
    assert kinds_of("x@project.iam.gserviceaccount.com.example.org") == {Kind.EMAIL}


def test_random_ids_are_no_cards_and_no_phones() -> None:
    chance = random.Random(7)
    for _ in range(5_000):
        ids = (
            str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            str(chance.randrange(10**18, 10**19)),  # of a machine, in Google's cloud
            str(chance.randrange(10**11, 10**12)),  # of an account
            f"{chance.getrandbits(256):064x}",
            "".join(chance.choices("ABCDEFGHJKMNPQRSTVWXYZ0123456789", k=16)),  # of a request
            str(1_764_417_600_000_000 + chance.randrange(10**14)),  # microseconds
        )
        assert [one for one in ids if kinds_of(one)] == []


def test_an_open_export_names_its_people_and_a_protected_one_does_not(tmp_path: Path) -> None:
    def hours() -> list[list[list[bytes]]]:
        more = {"request": {"path": f"/home/{PEOPLE[0]}"}}
        return [[[event(n, actor=PEOPLE[n % 2], **(more if n % 2 == 0 else {})) for n in range(10)]]]

    for name in ("open", "protected"):
        (tmp_path / name).mkdir()
    opened = looked_at(AuditWorld(tmp_path / "open", FakeSource(hours())))
    assert found_in(opened) == {
        ("raw", "$.actor", Kind.EMAIL),
        ("raw", "$.request.path", Kind.EMAIL),
        ("ocsf", "actor.user.name", Kind.EMAIL),
    }
    world = private_world(tmp_path / "protected", FakeSource(hours()))
    done = looked_at(world)
    assert (done.verdict, done.exit_code, done.events) == ("nothing", 0, {})
    assert (done.not_opened, done.looked_at["events"]) == (10, 10)


def private_world(folder: Path, source: FakeSource) -> AuditWorld:
    world = AuditWorld(folder, source)
    master = folder / "master.hex"
    master.write_text("5a" * 32)
    add_audit(world.topology, privacy={"subjects": "pseudonymous", "master_key": f"file:{master}"})
    return world


class Guests(FakeSource):
    """Its events are about people who are not their subject."""

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        table = super().normalise(raw)
        kind = ocsf.SCHEMA.field("resources").type
        found = [None if n % 3 == 0 else [{"name": f"g{n}@example.net"}, {"name": "x"}] for n in range(len(raw))]
        return table.set_column(table.schema.get_field_index("resources"), "resources", pa.array(found, kind))


@pytest.mark.parametrize("rows_of_a_group", [50_000, 4])
def test_what_pseudonyms_do_not_cover_is_told_with_how_much_of_it_is_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_group: int
) -> None:
    monkeypatch.setattr(segments, "_ROW_GROUP_ROWS", rows_of_a_group)
    events = [event(n, actor="" if n >= 7 else PEOPLE[0], guest="guest@example.net") for n in range(9)]
    done = looked_at(private_world(tmp_path, Guests([[events]])))
    counts = {(one.part, one.path): (count, done.protected[one]) for one, count in done.events.items()}
    # Events 0, 3 and 6 have no resources, 7 and 8 have no subject.
    assert counts == {("ocsf", "resources.name"): (6, 4), ("raw", "$.guest"): (2, 0)}
    assert done.not_opened == 7


def test_a_name_of_a_field_that_is_personal_is_not_shown(tmp_path: Path) -> None:
    labels = {"jane.doe@example.com": {"x": "203.0.113.9"}, "Jane Doe": "a@example.com", "NO9386011117947": 1}
    record = {"labels": labels}
    done = of_records(tmp_path, json.dumps(record).encode())
    assert found_in(done) == {
        ("raw", "$.labels.* (name)", Kind.EMAIL),
        ("raw", "$.labels.* (name)", Kind.IBAN),
        ("raw", "$.labels.*.x", Kind.IP),
        ("raw", "$.labels.*", Kind.EMAIL),
    }


def test_escapes_repeated_fields_and_numbers_are_looked_at(tmp_path: Path) -> None:
    record = rb'{"a": "jane\u0040example.com", "a": "nothing", "n": 4111111111111111, "long": 1' + b"0" * 9_999 + b"}"
    assert found_in(of_records(tmp_path, record)) == {("raw", "$.a", Kind.EMAIL), ("raw", "$.n", Kind.CARD)}


def test_what_cannot_be_read_as_json_is_searched_as_text_and_is_never_called_clean(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    done = of_records(tmp_path / "deep", deep, b'{"cut": "')
    assert (done.verdict, done.exit_code, done.as_text) == ("unknown", 7, 2)
    done = of_records(tmp_path / "cut", b'{"cut": "jane@example.com')
    assert (done.exit_code, found_in(done)) == (8, {("raw", "$", Kind.EMAIL)})


def test_more_paths_than_anybody_reads_are_told_as_one(tmp_path: Path) -> None:
    done = of_records(tmp_path, json.dumps({f"k{n}": "jane@example.com" for n in range(1_500)}).encode())
    assert len(done.events) == 1_001
    (rest,) = (one for one in done.events if one.path == "(other paths)")
    assert done.events[rest] == 500


@pytest.mark.parametrize("text", ["+1 2 3 4 5 6 7 ", "@a.", "AA11 ", "4111 1111 1111 1112 x ", ":", "1.", "a@b."])
def test_a_text_that_is_all_beginnings_takes_no_time_to_speak_of(text: str) -> None:
    assert kinds_of(text * (1_000_000 // len(text))) == frozenset()  # the suite's time limit ends one that is not


def test_documents_are_searched_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(1)]]]))
    folder = world.export(
        documents=[
            Document("attached/report.json", "application/json", b'{"owner": "jane@example.com"}'),
            Document("attached/lines.jsonl", "application/x-ndjson", b'{"a": 1}\n{"b": ["+49 30 901820"]}\n'),
            Document("attached/note.txt", "text/plain", b"ask robert@example.com"),
            Document("attached/zipped.json.gz", "application/gzip", gzip.compress(b'{"ip": "203.0.113.9"}')),
            Document("attached/damaged.gz", "application/gzip", gzip.compress(b"x")[:-3]),
            Document("attached/picture.png", "image/png", b"\x89PNG\r\n"),
        ]
    ).folder
    assert folder is not None
    done = discover(verify_exports([folder], trusted=[world.key])[1])
    assert found_in(done) == {
        ("documents", "attached/report.json $.owner", Kind.EMAIL),
        ("documents", "attached/lines.jsonl $.b[*]", Kind.PHONE),
        ("documents", "attached/note.txt $", Kind.EMAIL),
        ("documents", "attached/zipped.json.gz $.ip", Kind.IP),
    }
    assert sorted(done.not_text) == ["attached/damaged.gz", "attached/picture.png"]


def test_nothing_found_is_0_and_a_changed_export_is_not_searched(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(1), event(2)]]]))
    folder = world.export().folder
    assert folder is not None
    done = run(folder, "--key", str(world.key))
    assert (done.exit_code, "nothing" in done.output) == (0, True)
    (segment,) = folder.glob("segments/fake/*[0-9].parquet")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(bytes(data))
    assert run(folder, "--key", str(world.key)).exit_code == 5
    with pytest.raises(Tampered, match="not what was sealed"):
        discover(verify_exports([folder], trusted=[world.key])[1])


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "find_spec", lambda name: None)
    done = run(tmp_path)
    assert (done.exit_code, "pip install 'holdfast[pii]'" in done.output) == (2, True)
