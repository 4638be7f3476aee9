"""Protected subjects: nothing names them, everything verifies, and what was shredded cannot be read again."""

from __future__ import annotations

import base64
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit_world import HOUR, AuditWorld, FakeSource, add_audit, event
from holdfast.cli.main import app
from holdfast.engine.audit.checks import CHECKS
from holdfast.engine.audit.errors import NotComplete, Tampered
from holdfast.engine.audit.export import audit_settings
from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.privacy.blocks import BlockReader, BlockWriter
from holdfast.engine.audit.privacy.certificates import certificates_at, parse_certificate
from holdfast.engine.audit.privacy.keys import RING, SubjectKey, SubjectKeys, open_keys
from holdfast.engine.audit.privacy.pseudonyms import pseudonymise, subjects_of
from holdfast.engine.audit.privacy.shred import Planned, shred_subject, subject_keys
from holdfast.engine.audit.prove import EVENT, LEAF, PROOF, SALT, check_proof, find_event, prove_event, write_proof
from holdfast.engine.audit.segments import RAW, read_leaves
from holdfast.engine.audit.verify import verify_export
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.engine.objectstore.memory import memory_store
from holdfast.engine.vault.recipients import SecretRecipient
from holdfast.errors import ConfigError, Refused, UnknownName

JANE = "jane.doe@example.com"
PEOPLE = [JANE, "robert.roe@example.com", "mallory@example.com"]


class PrivateWorld(AuditWorld):
    """A world whose subjects are protected."""

    def __post_init__(self) -> None:
        super().__post_init__()
        master = self.folder / "master.hex"
        master.write_text("5a" * 32)
        add_audit(self.topology, privacy={"subjects": "pseudonymous", "master_key": f"file:{master}"})

    def keys(self) -> SubjectKeys:
        return subject_keys(self.runtime())

    def keys_at(self, site: str) -> Path:
        """The folder of the keys at a site."""
        return next(path.parent for path in self.folder.rglob(RING) if site in path.parts)


def people_hours(hours: int = 6) -> list[list[list[bytes]]]:
    """Events of three people, whose names are in their bytes more than once, and of nobody."""

    def one(number: int) -> bytes:
        who = PEOPLE[number % 3]
        return event(number, actor=who, request={"path": f"/home/{who}/x", "ip": "203.0.113.7"})

    return [[[one(100 * hour + n) for n in range(12)], [event(100 * hour + 50, actor="")]] for hour in range(hours)]


@pytest.fixture
def world(tmp_path: Path) -> PrivateWorld:
    return PrivateWorld(tmp_path, FakeSource(people_hours()))


def versions_of_jane(world: PrivateWorld) -> dict[str, int]:
    """Per site how many versions of her key a shredding would remove; whoever is asked says no."""
    asked: list[Planned] = []

    def refuse(planned: Planned) -> None:
        asked.append(planned)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shred_subject(world.runtime(), JANE, reason="request 17", confirm=refuse)
    return asked[0].versions


def everything(folder: Path) -> bytes:
    """Every byte below a folder, and every column of the Parquet files as text."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parts.append(path.read_bytes())
            if path.suffix == ".parquet":
                parts.append(repr(pq.read_table(path).to_pylist()).encode())
    return b"\n".join(parts)


def spellings(text: str) -> list[bytes]:
    """A text as it may lie in bytes: plain, and in base64 at each offset."""
    data = text.encode()
    shifted = [base64.b64encode(b"\0" * shift + data)[4 if shift else 0 : -4] for shift in range(3)]
    return [data, data.hex().encode(), data.upper(), *shifted]


def test_an_export_without_privacy_has_the_same_form(tmp_path: Path) -> None:
    done = AuditWorld(tmp_path, FakeSource(people_hours())).export()
    assert done.folder is not None
    written = json.loads((done.folder / "manifest.json").read_bytes())
    assert set(written["segments"][0]) == {"source", "events", "objects", "rows", "object_count", "first_leaf"}
    assert not list(done.folder.rglob("*.subjects.parquet"))
    assert not pq.read_schema(done.folder / written["segments"][0]["events"]["path"]).field(RAW).nullable
    assert not list(tmp_path.rglob(RING))


def test_nothing_names_a_subject_and_everything_verifies(world: PrivateWorld) -> None:
    done = world.export()
    assert done.folder is not None
    answer = world.verify(done.folder)
    assert answer.problems == []
    assert answer.counts["events"] == 39
    assert any("were not opened" in note for note in answer.notes)
    ledger = [path for path in world.folder.iterdir() if path.name not in ("master.hex",)]
    assert world.folder / "state" in ledger
    found = b"".join(everything(path) if path.is_dir() else path.read_bytes() for path in ledger)
    assert b"event-7" in found  # the test looks where events are
    for who in PEOPLE:
        for spelling in spellings(who):
            assert spelling not in found
    table = pq.read_table(done.folder / done.manifest.segments[0].events.path)
    names = {row["actor"]["user"]["name"] for row in table.to_pylist()}
    assert len(names) == 4  # three pseudonyms, and the events of nobody
    assert all(name.startswith("p:") for name in names if name)
    assert sum(raw is not None for raw in table.column(RAW).to_pylist()) == 3


def test_with_the_keys_every_byte_is_compared(world: PrivateWorld) -> None:
    done = world.export()
    assert done.folder is not None
    keys = world.keys().by_id()
    assert verify_export(done.folder, trusted=[world.key], subject_keys=keys).answer.problems == []
    segment = done.manifest.segments[0]
    assert segment.subjects is not None
    opened = read_leaves(done.folder / segment.events.path, done.folder / segment.subjects.path, keys)
    raws = [raw for run, _ in opened for raw in run.to_pylist()]
    assert raws == [raw for hour in world.source.hours[:3] for objects in hour for raw in objects]


def test_the_objects_of_protected_events_are_made_again_only_with_the_keys(world: PrivateWorld) -> None:
    from holdfast.engine.audit.checks import Contents
    from holdfast.engine.audit.segments import read_objects

    done = world.export()
    assert done.folder is not None
    segment = done.manifest.segments[0]
    assert segment.subjects is not None
    files = done.folder / segment.events.path, done.folder / segment.subjects.path
    objects = read_objects(done.folder / segment.objects.path)
    for keys, not_opened in ((None, 3), (world.keys().by_id(), 0)):
        contents = Contents()
        hasher = contents.of("fake", objects)
        for raw, _ in read_leaves(*files, keys):
            hasher.add(raw)
        hasher.end()
        assert len(contents.not_opened) == not_opened
        assert contents.found["fake"] == {one.object_id: one.content_sha256 for one, _ in objects}


def test_what_a_cloud_signed_is_unknown_without_the_keys_and_told(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKS, "fake", lambda *_: ())
    done = world.export()
    assert done.folder is not None
    bare = world.verify(done.folder)
    assert (bare.verdict, bare.counts["objects_not_opened"]) == ("fine", 3)
    assert any(note.startswith("Unknown: whether 3 objects") for note in bare.notes)
    full = verify_export(done.folder, trusted=[world.key], subject_keys=world.keys().by_id()).answer
    assert full.problems == full.notes == []
    assert "objects_not_opened" not in full.counts


def proof_of(world: PrivateWorld, folder: Path, wanted: str, target: Path, keys: SubjectKeys | None) -> Any:
    verified = verify_export(folder, trusted=[world.key])
    assert verified.manifest is not None
    (place,) = find_event(folder, verified.manifest, wanted)
    proven = prove_event(
        folder,
        verified,
        place,
        subject_keys=keys.by_id() if keys else None,
        certificates=certificates_at(keys.stores[keys.first]) if keys else (),
    )
    write_proof(proven, folder, target)
    return proven


def test_an_event_is_proven_with_and_without_its_key(world: PrivateWorld, tmp_path: Path) -> None:
    done = world.export()
    assert done.folder is not None
    bare = proof_of(world, done.folder, "event-3", tmp_path / "bare", None)
    assert bare.raw is None
    answer = check_proof(tmp_path / "bare", trusted=[world.key])
    assert answer.problems == []
    assert any(note.startswith("Unknown") for note in answer.notes)
    full = proof_of(world, done.folder, "event-3", tmp_path / "full", world.keys())
    assert full.raw == people_hours()[0][0][3]
    assert check_proof(tmp_path / "full", trusted=[world.key]).problems == []
    for name in (EVENT, SALT):
        file = tmp_path / "full" / name
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert check_proof(tmp_path / "full", trusted=[world.key]).verdict == "tampered"
        file.write_bytes(data)
    raw, salt = (tmp_path / "full" / EVENT).read_bytes(), (tmp_path / "full" / SALT).read_bytes()
    (tmp_path / "full" / EVENT).write_bytes(raw[5:])
    (tmp_path / "full" / SALT).write_bytes(salt + raw[:5])
    with pytest.raises(ConfigError, match="no salt"):
        check_proof(tmp_path / "full", trusted=[world.key])
    (tmp_path / "bare" / LEAF).write_text("ab" * 32)
    assert check_proof(tmp_path / "bare", trusted=[world.key]).verdict == "tampered"
    (tmp_path / "bare" / LEAF).write_text("no leaf")
    with pytest.raises(ConfigError, match="no leaf"):
        check_proof(tmp_path / "bare", trusted=[world.key])
    assert (tmp_path / "bare" / PROOF).exists()


def test_shredding(world: PrivateWorld, tmp_path: Path) -> None:
    first = world.export()
    assert first.folder is not None
    before = everything(first.folder)
    done = shred_subject(world.runtime(), JANE, reason="request 17")
    assert done.missing == {}
    assert done.certificate.sites == {"site-b": 1, "site-c": 1}
    assert len(done.certificate.keys) == 1
    assert everything(first.folder) == before
    assert world.verify(first.folder).problems == []

    keys = world.keys()
    opened = verify_export(first.folder, trusted=[world.key], subject_keys=keys.by_id()).answer
    assert opened.problems == []
    assert opened.counts["events_not_opened"] == 12
    assert any("keys are gone" in note for note in opened.notes)
    gone = proof_of(world, first.folder, "event-3", tmp_path / "gone", keys)
    assert gone.raw is None
    assert gone.shredded == done.certificate
    assert check_proof(tmp_path / "gone", trusted=[world.key]).problems == []
    there = proof_of(world, first.folder, "event-4", tmp_path / "there", keys)
    assert there.raw is not None

    with pytest.raises(UnknownName, match="no site has a key"):
        shred_subject(world.runtime(), JANE, reason="request 17")

    world.clock.advance(HOUR.total_seconds())
    second = world.export()
    assert second.folder is not None
    path = f"privacy/{done.certificate.name}"
    assert parse_certificate((second.folder / path).read_bytes(), path) == done.certificate
    assert world.verify(second.folder).problems == []
    again = proof_of(world, second.folder, "event-300", tmp_path / "again", world.keys())
    assert again.raw is not None  # a new key
    assert again.protected.key_id.hex() not in done.certificate.keys
    assert again.protected.subject != gone.protected.subject
    world.clock.advance(HOUR.total_seconds())
    third = world.export()
    assert third.manifest.document(path) is None  # carried once


def test_after_shredding_nothing_that_is_left_opens_a_block(world: PrivateWorld) -> None:
    """Who has every byte of every site, the state folder and the master key still cannot read or recompute it."""
    done = world.export()
    assert done.folder is not None
    jane = world.keys().of([JANE])[0]
    shred_subject(world.runtime(), JANE, reason="request 17")
    left = b"".join(everything(path) for path in world.folder.iterdir() if path.is_dir())
    for spelling in (jane.key, jane.key.hex().encode(), base64.b64encode(jane.key)):
        assert spelling not in left
    assert jane.key_id not in world.keys().by_id()


def test_a_dictionary_of_names_finds_nobody(world: PrivateWorld) -> None:
    done = world.export()
    assert done.folder is not None
    held = everything(done.folder)
    pseudonym = world.keys().of([JANE])[0].pseudonym(JANE).removeprefix("p:")
    assert pseudonym.encode() in held
    public = [b"", bytes(32), b"example.com/desk", done.record.root.encode(), bytes.fromhex(done.record.root)]
    for known in public:
        guess = hmac.new(known, JANE.encode(), "sha256").hexdigest()
        assert guess[:32].encode() not in held
    ours = {path.name for path in (world.keys_at("site-b") / "keys").iterdir()}
    assert len(ours) == 3
    assert not ours & {hmac.new(known, JANE.encode(), "sha256").hexdigest() + ".json" for known in public}


def two_sites() -> dict[str, Any]:
    return {site: memory_store(site) for site in ("one", "two")}


MASTER = SecretRecipient("m", b"m" * 32)


def test_two_exporters_use_the_same_keys() -> None:
    stores = two_sites()
    subjects = [f"user-{n}" for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: SubjectKeys("o", stores, MASTER).of(subjects), range(4)))
    assert all(found == made[0] for found in made)
    assert len({key.key for key in made[0]}) == 40
    for name in (found.key for found in stores["one"].list("")):
        assert stores["one"].get(name) == stores["two"].get(name)


def test_a_key_object_that_was_changed_is_told() -> None:
    stores = two_sites()
    keys = SubjectKeys("o", stores, MASTER)
    keys.of(["a", "b"])
    name, other = keys.object_name("a"), keys.object_name("b")
    original = stores["one"].get(name)
    changes = [
        b"{}",
        b"nonsense",
        stores["one"].get(other),
        *(
            original.replace(original[at : at + 1], b"0" if original[at : at + 1] != b"0" else b"1", 1)
            for at in (20, 80)
        ),
    ]
    for changed in changes:
        stores["one"].put(name, changed)
        with pytest.raises(Tampered, match="not what was written"):
            SubjectKeys("o", stores, MASTER).of(["a"])
    stores["one"].put(name, original)
    with pytest.raises(Tampered):
        SubjectKeys("another", stores, MASTER).of(["a"])


def test_a_wrong_master_key_opens_nothing() -> None:
    stores = two_sites()
    SubjectKeys("o", stores, MASTER)
    with pytest.raises(ConfigError, match="master_key does not open") as raised:
        SubjectKeys("o", stores, SecretRecipient("another", b"n" * 32))
    assert raised.value.exit_code == 2
    assert str(raised.value.expected).endswith(f"secret {MASTER.key_name}")
    assert "another" in str(raised.value.found)
    assert raised.value.fix


def test_what_another_site_lacks_is_brought_and_what_only_it_has_is_refused() -> None:
    stores = two_sites()
    keys = SubjectKeys("o", stores, MASTER)
    keys.of(["a", "b"])
    name = keys.object_name("a")
    stores["two"].delete(name)
    keys.settle()
    assert stores["two"].get(name) == stores["one"].get(name)
    stores["one"].delete(name)
    with pytest.raises(Refused, match="object:"):
        SubjectKeys("o", stores, MASTER).settle()
    stores["one"].delete(RING)
    with pytest.raises(Refused, match="another one has"):
        SubjectKeys("o", stores, MASTER)


def test_a_site_that_is_away_refuses_a_shredding(world: PrivateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.engine.vault.locks import NoLocks

    world.export()
    found = NoLocks.objects

    def objects(self: NoLocks, prefix: str) -> Any:
        if "site-c" in self.name:
            raise StoreUnavailable("it is away", where=self.name)
        return found(self, prefix)

    monkeypatch.setattr(NoLocks, "objects", objects)
    with pytest.raises(Refused, match="nothing was removed"):
        shred_subject(world.runtime(), JANE, reason="request 17")
    monkeypatch.undo()
    assert versions_of_jane(world) == {"site-b": 1, "site-c": 1}


def test_a_shredding_that_was_cut_short_is_run_again(world: PrivateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.engine.vault.locks import NoLocks

    first = world.export()
    removed = NoLocks.remove

    def remove(self: NoLocks, key: str) -> None:
        if "site-b" in self.name:
            raise StoreUnavailable("it went away", where=self.name)
        removed(self, key)

    monkeypatch.setattr(NoLocks, "remove", remove)
    with pytest.raises(NotComplete, match="not complete"):
        shred_subject(world.runtime(), JANE, reason="request 17")
    monkeypatch.undo()
    assert versions_of_jane(world) == {"site-b": 1, "site-c": 0}
    assert shred_subject(world.runtime(), JANE, reason="request 17").certificate.sites == {"site-b": 1, "site-c": 0}
    assert first.folder is not None
    assert world.verify(first.folder).problems == []


class Versioned:
    """Locks of a bucket with versions: what was removed is told, and one version may be locked."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.removed, self.locked = inner, list[str](), False

    def objects(self, prefix: str) -> Any:
        for found in self.inner.objects(prefix):
            yield found
            yield replace(found, hidden=True, version="older")

    def remove(self, key: str) -> None:
        if self.locked:
            raise PermissionRefused("the object is locked", where=key)
        self.removed.append(key)
        self.inner.remove(key)


def test_all_versions_are_removed_and_a_locked_one_is_told(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.engine.audit.privacy import shred as module

    world.export()
    made: dict[str, Versioned] = {}
    found = module.locks_at

    def locks_at(runtime: Any, site: str, *, below: str) -> Versioned:
        assert below == "ledger-subjects"
        return made.setdefault(site, Versioned(found(runtime, site, below=below)))

    monkeypatch.setattr(module, "locks_at", locks_at)
    versions_of_jane(world)
    made["site-b"].locked = True
    with pytest.raises(NotComplete, match="locked"):
        shred_subject(world.runtime(), JANE, reason="request 17")
    made["site-b"].locked = False
    assert shred_subject(world.runtime(), JANE, reason="request 17").certificate.sites == {"site-b": 2, "site-c": 0}
    assert len(made["site-b"].removed) == len(made["site-c"].removed) == 1


def test_the_command_line(world: PrivateWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from holdfast.engine.runtime import Runtime

    first = world.export()
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: world.runtime())

    def holdfast(*words: object) -> Any:
        done = CliRunner().invoke(app, ["audit", *map(str, words), "--json"])
        return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else done.output

    key = ("--key", world.key)
    opened = ("--subject-keys", world.topology)
    assert holdfast("verify", first.folder, *key, *opened)[0] == 0
    code, told = holdfast("prove", "event-3", "--export", first.folder, "--output", tmp_path / "p", *key, *opened)
    assert (code, told["opened"], told["shredded_at"]) == (0, True, None)
    assert CliRunner().invoke(app, ["audit", "shred", JANE, "--reason", "r"], input="n\n").exit_code != 0
    code, told = holdfast("shred", JANE, "--reason", "request 17", "--yes")
    assert (code, told["sites"], told["without_certificate"]) == (0, {"site-b": 1, "site-c": 1}, {})
    assert holdfast("shred", JANE, "--reason", "request 17", "--yes")[0] == UnknownName.exit_code
    code, told = holdfast("prove", "event-3", "--export", first.folder, "--output", tmp_path / "q", *key, *opened)
    assert (code, told["opened"]) == (0, False)
    assert told["shredded_at"]
    world.clock.advance(HOUR.total_seconds())
    second = world.export()
    code, told = holdfast("verify", first.folder, second.folder, *key)
    assert (code, told["verdict"], told["problems"]) == (0, "fine", [])


def test_a_certificate_that_did_not_arrive_is_brought_and_carried_later(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.engine.audit.privacy import certificates

    world.export()
    create = certificates.create_or_read

    def away(store: Any, name: str, data: bytes) -> bytes:
        raise StoreUnavailable("it went away", where=store.name)

    monkeypatch.setattr(certificates, "create_or_read", away)
    done = shred_subject(world.runtime(), JANE, reason="request 17")
    assert set(done.missing) == {"site-b", "site-c"}
    path = f"privacy/{done.certificate.name}"
    world.clock.advance(HOUR.total_seconds())
    assert world.export().manifest.document(path) is not None  # from this machine
    monkeypatch.setattr(certificates, "create_or_read", create)
    world.clock.advance(HOUR.total_seconds())
    world.export()
    for site in ("site-b", "site-c"):
        assert (world.keys_at(site) / done.certificate.name).exists()
    assert not list((world.folder / "state").rglob("*.note"))


def test_the_reason_names_nobody_and_a_no_removes_nothing(world: PrivateWorld) -> None:
    world.export()
    for reason in (f"{JANE.upper()} asked", " ", "a\nb"):
        with pytest.raises(ConfigError, match="public certificate"):
            shred_subject(world.runtime(), JANE, reason=reason)

    assert versions_of_jane(world) == versions_of_jane(world) == {"site-b": 1, "site-c": 1}


def test_a_forged_certificate_is_told(world: PrivateWorld) -> None:
    world.export()
    done = shred_subject(world.runtime(), JANE, reason="request 17")
    for site in ("site-b", "site-c"):
        file = world.keys_at(site) / done.certificate.name
        file.write_bytes(file.read_bytes().replace(b"request 17", b"request 18"))
    world.clock.advance(HOUR.total_seconds())
    second = world.export()
    assert second.folder is not None
    answer = world.verify(second.folder)
    assert [problem.code for problem in answer.problems] == ["certificate-invalid"]


KEY, OTHER = SubjectKey(b"k" * 32), SubjectKey(b"o" * 32)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = BlockWriter(tmp_path_factory.mktemp("blocks") / "x.subjects.parquet")
    for row in range(0, 60, 2):
        key = (KEY, OTHER)[row % 3 == 0]
        writer.add(key, key.pseudonym("x"), row, f"raw {row}".encode())
    assert writer.close()
    return writer.file


def taken(file: Path) -> list[bytes | None]:
    reader = BlockReader(file, {KEY.key_id: KEY, OTHER.key_id: OTHER})
    found = [reader.take(row).raw for row in range(0, 60, 2)]
    reader.end()
    return found


def test_a_block_that_its_own_sealer_made_wrong_is_told(tmp_path: Path) -> None:
    writer = BlockWriter(tmp_path / "x.subjects.parquet")
    writer.add(KEY, "p:x", 0, b"what was sealed")
    (waiting,) = writer._waiting.values()
    waiting.raws[0] = b"what was not"
    writer.close()
    with pytest.raises(Tampered, match="not what was sealed"):
        BlockReader(writer.file, {KEY.key_id: KEY}).take(0)
    assert BlockReader(writer.file).take(0).raw is None


def test_blocks_hold_each_protected_event_once(blocks: Path, tmp_path: Path) -> None:
    table = pq.read_table(blocks)
    twice, again = tmp_path / "twice.parquet", tmp_path / "again.parquet"
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), twice)
    with pytest.raises(Tampered, match="same event"):
        taken(twice)
    pq.write_table(pa.concat_tables([table, table]), again, row_group_size=table.num_rows)
    with pytest.raises(Tampered, match="same event"):
        taken(again)
    reader = BlockReader(blocks)
    reader.take(0)
    with pytest.raises(Tampered, match="not protected"):
        reader.end()
    with pytest.raises(Tampered, match="no block"):
        reader.take(1)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_a_block_is_missed_and_the_block_is_named(
    blocks: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """As by somebody who could seal the changed file anew: the digest of the file is not looked at."""
    rows = pq.read_table(blocks).to_pylist()
    row = rows[data.draw(st.integers(0, len(rows) - 1))]
    name = data.draw(st.sampled_from(sorted(row)))
    value = row[name]
    if isinstance(value, bytes):
        at, bit = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(0, 7))
        row[name] = value[:at] + bytes([value[at] ^ (1 << bit)]) + value[at + 1 :]
    elif isinstance(value, list):
        row[name] = [*value[1:], data.draw(st.integers(-2, 2**31 - 1))]
    elif isinstance(value, int):
        row[name] = value + data.draw(st.sampled_from([-1, 1, 2**40]))
    else:
        row[name] = data.draw(st.sampled_from([None, "", value[:-1]]))
    if name == "key_id":
        return  # another key: nobody opens it, which `prove` says
    changed = tmp_path / "changed.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(blocks)), changed)
    with pytest.raises(Tampered, match=r"block") as told:
        taken(changed)
    assert "changed.parquet" in str(told.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_the_subjects_file_is_missed(world: PrivateWorld, data: st.DataObject) -> None:
    folder = world.folder / "export-1"
    if not folder.exists():
        world.export()
    (file,) = folder.rglob("*.subjects.parquet")
    original = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(original[:at] + bytes([original[at] ^ (1 << bit)]) + original[at + 1 :])
    try:
        assert world.verify(folder).verdict == "tampered"
    finally:
        file.write_bytes(original)


def test_blocks_are_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.engine.audit.privacy.blocks._PART_EVENTS", 100)
    writer = BlockWriter(tmp_path / "x.subjects.parquet")
    for row in range(5000):
        writer.add((KEY, OTHER)[row % 2], "p:x", row, b"raw %d" % row)
        assert sum(len(block.rows) for block in writer._waiting.values()) < 100
    writer.close()
    reader = BlockReader(writer.file, {KEY.key_id: KEY})
    for row in range(5000):
        assert reader.take(row).raw == (b"raw %d" % row if row % 2 == 0 else None)
        assert len(reader._rows) < 100
    reader.end()


def test_every_text_of_the_subject_s_rows_is_replaced() -> None:
    ip = "203.0.113.7"
    table = ocsf.build(
        3,
        {
            "actor.user.uid": pa.array(["AIDA1234", None, None]),
            "actor.user.name": pa.array(["jane.doe", "jane.doe", None]),
            "actor.user.email_addr": pa.array([JANE, None, None]),
            "actor.session.uid": pa.array(["s-1", None, "s-1"]),
            "src_endpoint.ip": pa.array([ip, None, ip]),
            "message": pa.array(["AIDA1234 was here", "jane.doe!", "jane.doe!"]),
            "entity.name": pa.array(["jane.doe", "x", "jane.doe"]),
            "http_request.url.path": pa.array([f"/u/{JANE}", None, None]),
            "cloud.account.uid": pa.array(["AIDA1234", "1", "1"]),
            "resources": pa.array(
                [[{"uid": "AIDA1234"}, {"name": "arn:jane.doe"}], None, [{"uid": "jane.doe"}]],
                ocsf.SCHEMA.field("resources").type,
            ),
        },
    )
    subjects = subjects_of(table)
    assert subjects.to_pylist() == ["AIDA1234", "jane.doe", None]
    found = pseudonymise(table, subjects, [KEY, OTHER]).to_pylist()
    assert found[0]["actor"]["user"]["uid"] == found[0]["resources"][0]["uid"] == KEY.pseudonym("AIDA1234")
    assert found[0]["message"] == f"{KEY.pseudonym('AIDA1234')} was here"
    assert found[0]["resources"][1]["name"] == f"arn:{KEY.pseudonym('jane.doe')}"
    assert found[0]["http_request"]["url"]["path"] == f"/u/{KEY.pseudonym(JANE)}"
    assert found[0]["src_endpoint"]["ip"] == KEY.pseudonym(ip)
    assert found[0]["cloud"]["account"]["uid"] == "AIDA1234"
    assert found[1]["entity"]["name"] == "x"
    assert found[1]["resources"] is None
    assert found[2] == table.slice(2).to_pylist()[0]
    assert "jane" not in repr(found[:2])


def test_parts_of_tables_are_replaced_as_the_whole() -> None:
    count = 50
    lists = [None if n % 7 == 0 else [{"uid": f"user-{(n + k) % 5}"} for k in range(n % 4)] for n in range(count)]
    table = ocsf.build(
        count,
        {
            "actor.user.uid": pa.array([None if n % 4 == 0 else f"user-{n % 5}" for n in range(count)]),
            "message": pa.array([f"user-{n % 5} came" for n in range(count)]),
            "resources": pa.array(lists, ocsf.SCHEMA.field("resources").type),
        },
    )

    def replaced(part: pa.Table) -> list[dict[str, Any]]:
        subjects = subjects_of(part)
        keys = [SubjectKey(name.encode().ljust(32)) for name in subjects.dictionary.to_pylist()]
        rows: list[dict[str, Any]] = pseudonymise(part, subjects, keys).to_pylist()
        return rows

    whole = replaced(table)
    assert whole != table.to_pylist()
    for start, length in ((7, 20), (13, 37), (49, 1), (5, 0)):
        assert replaced(table.slice(start, length)) == whole[start : start + length]
    assert replaced(pa.concat_tables([table.slice(3, 10), table.slice(13, 30)])) == whole[3:43]
    nobody = ocsf.build(3, {"actor.user.name": pa.array([None, "", None])})
    assert replaced(nobody) == nobody.to_pylist()


def test_keys_are_needed_where_they_are_named(world: PrivateWorld, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no keys of subjects"):
        subject_keys(world.runtime())
    (tmp_path / "plain").mkdir()
    plain = AuditWorld(tmp_path / "plain", FakeSource([]))
    with pytest.raises(ConfigError, match="not protected"):
        subject_keys(plain.runtime())
    assert open_keys(plain.runtime(), audit_settings(plain.runtime())) is None


def test_protected_events_are_not_selected(world: PrivateWorld, tmp_path: Path) -> None:
    from holdfast.engine.audit.selection.query import make_query
    from holdfast.engine.audit.selection.select import select_events

    done = world.export()
    assert done.folder is not None
    verified = verify_export(done.folder, trusted=[world.key])
    with pytest.raises(ConfigError, match="cannot be selected yet"):
        select_events([verified], make_query(), tmp_path / "selection")
    assert not (tmp_path / "selection").exists()
