"""What somebody with a stolen key, or with the right to write to the bucket, can and cannot do to a vault."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, ByteRange, ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, NotEntitled, RolledBack, UnknownFormat
from holdfast.engine.vault.forget import forget, hold
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.keysets import rotate_keys, unlock, write_keyset
from holdfast.engine.vault.log import MOST_BYTES, LogEntry, make_entry, parse_entry, read_entry
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.repair import RepairOptions, repair_vault
from holdfast.engine.vault.secrets import Secrets, b64, verifier_of
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.verify import verify_vault
from holdfast.engine.vault.witness import write_witness
from holdfast.errors import ConfigError
from vault_world import SMALL, VaultWorld, read_tree, some_files, write_tree

FAR = 999_999_999_999


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    world = VaultWorld().make()
    write_tree(tmp_path / "source", some_files(count=4))
    world.back_up(tmp_path / "source")
    return world


def put_entry(store: ObjectStore, data: bytes) -> LogEntry:
    entry = parse_entry(data, "made by an attacker")
    store.put(layout.entry_key(entry.sequence), data, mode=CREATE)
    return entry


def forged(signer: Secrets, kind: str, tip: LogEntry, public: Mapping[str, Any], **fields: Any) -> bytes:
    """An entry that follows another, signed with whatever key."""
    return make_entry(
        replace(signer, role="admin"),
        **{
            "sequence": tip.sequence + 1,
            "previous": tip.digest,
            "kind": kind,
            "created_at": datetime(2026, 3, 1, tzinfo=UTC),
            "write_id": os.urandom(16).hex(),
            "public": public,
            "body": {"dead_bytes": 0} if kind == "collect" else {} if kind == "hold" else None,
            **fields,
        },
    )


def signed_anew(signer: Secrets, found: dict[str, Any]) -> bytes:
    fields = {name: value for name, value in found.items() if name != "signature"}
    return canonical({**fields, "signature": b64(signer.sign(b"holdfast vault 1|log entry|" + canonical(fields)))})


# -- who may say what the keys are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("thief", ["writer", "nobody"])
def test_nobody_makes_himself_the_administrator(world: VaultWorld, thief: str) -> None:
    """An entry with his own keys, and an anchor that names it and nothing else."""
    vault = world.open("writer")
    own = replace(vault.secrets, signing=os.urandom(32)) if thief == "nobody" else vault.secrets
    keys = replace(vault.history.keys, signers={verifier_of(own.signing or b""): "admin"}).to_public()
    changed = put_entry(world.store, forged(own, "keys", vault.history.tip, {"keys": keys}))
    for chain in ([[1, read_entry(world.store, 1).digest], [changed.sequence, changed.digest]], []):
        state = {**vault.history.state(backups=[]), "keys": chain or vault.history.state()["keys"]}
        tip = load_history(world.store).tip if not chain else changed
        data = forged(own, "collect", tip, {"state": state}, sequence=changed.sequence + 1 + (not chain))
        put_entry(world.store, data)
    after = world.open("admin")
    assert after.history.keys == vault.history.keys
    assert [backup.sequence for backup in live_backups(after)] == [2]
    assert after.history.strays == (3, 4, 5)


def test_another_repository_in_its_place_is_not_opened(world: VaultWorld) -> None:
    """Whoever knows the recipients can seal a whole repository of his own for them."""
    mine = world.open("writer").history.repository.hex()
    other = VaultWorld(store=memory_store("other"), recipient=world.recipient).make()
    for info in list(world.store.list("")):
        world.store.delete(info.key)
    for info in other.store.list(""):
        world.store.put(info.key, other.store.get(info.key), mode=CREATE)
    with pytest.raises(ConfigError, match="another repository"):
        unlock(world.store, "writer", [world.recipient], repository=mine)


def test_the_first_entry_cannot_be_made_anew_by_another_key(world: VaultWorld) -> None:
    vault = world.open("admin")
    other = replace(vault.secrets, signing=os.urandom(32))
    keys = replace(vault.history.keys, signers={verifier_of(other.signing or b""): "admin"}).to_public()
    data = forged(other, "init", vault.history.tip, {"keys": keys}, sequence=1, previous=None)
    for key in (layout.entry_key(1), layout.entry_copy_key(1)):
        world.store.put(key, data, mode=OVERWRITE)
    with pytest.raises(HistoryDamaged):
        load_history(world.store)


def test_a_key_object_with_other_secrets_is_refused(world: VaultWorld) -> None:
    """Sealed for the same recipient, which anybody can do: the writer would seal metadata with the attacker's root."""
    secrets = world.open("writer").secrets
    own = memory_store("own")
    forged_name = write_keyset(own, replace(secrets, root=os.urandom(32)), [world.recipient])
    name = load_history(world.store).keys.keysets["writer"]
    for copy in layout.KEY_COPIES:
        data = own.get(layout.keyset_key(forged_name, copy))
        world.store.put(layout.keyset_key(name, copy), data, mode=OVERWRITE)
    with pytest.raises(Damaged, match="key object"):
        unlock(world.store, "writer", [world.recipient])


def test_the_key_object_of_another_role_is_refused(world: VaultWorld) -> None:
    names = load_history(world.store).keys.keysets
    for copy in layout.KEY_COPIES:
        data = world.store.get(layout.keyset_key(names["admin"], copy))
        world.store.put(layout.keyset_key(names["writer"], copy), data, mode=OVERWRITE)
    with pytest.raises(Damaged):
        unlock(world.store, "writer", [world.recipient])


def test_forged_key_objects_are_reported_and_the_genuine_put_back(world: VaultWorld) -> None:
    """Both copies alike, and made for the recipient at hand: only their name tells."""
    mirror = memory_store("mirror")
    mirror_vault(world.store, mirror)
    vault = world.open("reader")
    own = memory_store("own")
    forged_name = write_keyset(own, replace(vault.secrets, root=os.urandom(32)), [world.recipient])
    keys = [layout.keyset_key(vault.history.keys.keysets["reader"], copy) for copy in layout.KEY_COPIES]
    genuine = world.store.get(keys[0])
    for key in keys:
        world.store.put(key, own.get(layout.keyset_key(forged_name, "a")), mode=OVERWRITE)
    assert len([problem for problem in verify_vault(vault).problems if "keys/" in problem]) == 2
    assert any("key object" in lost for lost in repair_vault(world.open("admin")).lost)
    assert repair_vault(world.open("admin"), [mirror]).lost == []
    assert [world.store.get(key) for key in keys] == [genuine, genuine]
    assert verify_vault(world.open("reader")).is_good


# -- keys that were replaced ---------------------------------------------------------------------------------------


def rotated(world: VaultWorld) -> tuple[Secrets, Secrets]:
    """The writer's keys before and after they were replaced."""
    old = world.open("writer").secrets
    _, made = rotate_keys(world.open("admin"), {"writer": [world.recipient]}, writer=old, new_signer=True)
    return old, made["writer"]


def test_what_a_replaced_key_signs_counts_for_nothing_and_hinders_nobody(world: VaultWorld, tmp_path: Path) -> None:
    old, _ = rotated(world)
    history = load_history(world.store)
    public = {"backup": os.urandom(16).hex(), "tier": "daily", "indexes": []}
    body = dict(history.backups[2].open_body(old))
    put_entry(world.store, forged(old, "backup", history.tip, public, body=body))
    mine = world.back_up(tmp_path / "source").backup
    assert mine.sequence == history.tip.sequence + 2
    assert [backup.sequence for backup in live_backups(world.open())] == [2, mine.sequence]
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files(count=4)


def test_a_backup_that_ran_while_the_keys_were_replaced_writes_nothing(world: VaultWorld, tmp_path: Path) -> None:
    running = world.open("writer")
    rotated(world)
    before = load_history(world.store).tip
    with pytest.raises(NotEntitled):
        back_up(running, TreeSource("late", tmp_path / "source", datetime.now(UTC)), SMALL)
    assert load_history(world.store).tip.digest == before.digest
    world.back_up(tmp_path / "source")


def test_witnesses_tell_of_keys_that_were_brought_back(world: VaultWorld) -> None:
    """The old administrator's key, the right to write, and an anchor that does not name the entry that replaced it."""
    admin = world.open("admin")
    old = admin.secrets
    new = replace(old, signing=os.urandom(32))
    keys = replace(
        admin.history.keys,
        signers={new.verifier: "admin", **{k: r for k, r in admin.history.keys.signers.items() if r == "writer"}},
    ).to_public()
    entry = append(
        world.store,
        old,
        "keys",
        clock=world.clock,
        tip=admin.history.tip,
        signers=admin.history.keys.signers,
        describe=lambda _tip: ({"keys": keys}, None),
    )
    admin.commit(entry)
    state = admin.history.state(backups=[])
    data = forged(old, "collect", entry, {"state": state})
    put_entry(world.store, data)
    thief = parse_entry(data, "")
    write_witness(world.witnesses, old, thief)
    vault = world.open("writer")
    assert isinstance(vault.alarm, RolledBack)
    assert "keys" in vault.alarm.what


def test_a_replaced_administrators_key_signs_nothing_more(world: VaultWorld, tmp_path: Path) -> None:
    stolen = world.open("admin")
    after, made = rotate_keys(stolen, {"admin": [world.recipient]}, new_admin=True)
    assert made["admin"].verifier != stolen.secrets.verifier
    world.back_up(tmp_path / "source")
    with pytest.raises(NotEntitled):
        hold(stolen, live_backups(stolen), held=True)
    with pytest.raises(NotEntitled):
        rotate_keys(stolen.reload(), {"admin": [world.recipient]}, new_admin=True)
    hold(after, live_backups(after), held=True)
    vault = world.open("admin")
    assert vault.alarm is None
    assert vault.history.held == {2}
    assert all(witness.sequence == vault.history.tip.sequence for witness in vault.witnessed)


# -- rubbish -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 4, 1000, FAR])
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100, b"[" * 100_000])
def test_rubbish_in_the_log_hinders_nobody(world: VaultWorld, tmp_path: Path, number: int, data: bytes) -> None:
    for key in (layout.entry_key(number), layout.entry_copy_key(number)):
        world.store.put(key, data, mode=CREATE)
    world.restore(tmp_path / "out")
    mine = world.back_up(tmp_path / "source").backup
    assert mine.sequence == (3 if number > 3 else 4)
    held = hold(world.open("admin"), [mine], held=True)
    assert held.history.held == {mine.sequence}
    vault = world.open("admin")
    vault, _ = forget(vault, backups=[live_backups(vault)[0].backup_id])
    assert [backup.sequence for backup in live_backups(world.open())] == [mine.sequence]
    report = verify_vault(world.open("reader"))
    assert (len(report.problems) > 0) == (number > world.open().history.anchor_at)


class Enormous(StoreDecorator):
    """Some objects of it are a terabyte: whoever asks for all of one ends the test."""

    keys = (layout.entry_key(3), layout.entry_copy_key(4))

    def get(self, key: str, *, byte_range: ByteRange | None = None, **kwargs: Any) -> bytes:
        if key in self.keys:
            assert byte_range is not None
            assert byte_range.end - byte_range.start <= MOST_BYTES + 1
        return super().get(key, byte_range=byte_range, **kwargs)


def test_an_enormous_object_in_the_log_is_not_read_whole(world: VaultWorld, tmp_path: Path) -> None:
    for key in Enormous.keys:
        world.store.put(key, b"in truth a terabyte", mode=CREATE)
    world.store = Enormous(world.store)
    mine = world.back_up(tmp_path / "source").backup
    assert mine.sequence == 4
    assert [one.sequence for one in live_backups(world.open())] == [2, mine.sequence]


def test_what_is_lost_is_given_up_beside_rubbish_at_the_last_number(world: VaultWorld, tmp_path: Path) -> None:
    world.back_up(tmp_path / "source")
    world.store.put(layout.entry_key(FAR), b"rubbish", mode=CREATE)
    for key in (layout.entry_key(3), layout.entry_copy_key(3)):
        world.store.delete(key)
    assert world.open("admin").alarm is not None
    repair_vault(world.open("admin"), options=RepairOptions(accept_loss=True))
    vault = world.open("admin")
    assert vault.alarm is None
    assert vault.history.tip.sequence == 4
    world.back_up(tmp_path / "source")


def test_an_entry_that_follows_nothing_is_got_rid_of_by_going_on(world: VaultWorld, tmp_path: Path) -> None:
    """A stolen writer's key and the right to write stop all writing, until an administrator goes on."""
    vault = world.open("writer")
    public = {"backup": os.urandom(16).hex(), "tier": "daily", "indexes": []}
    body = dict(vault.history.backups[2].open_body(vault.secrets))
    put_entry(
        world.store,
        forged(vault.secrets, "backup", vault.history.tip, public, previous="sha256:" + "0" * 64, body=body),
    )
    with pytest.raises(HistoryDamaged):
        world.back_up(tmp_path / "source")
    world.restore(tmp_path / "out", find_backup(world.open(), source="tree").backup_id)
    repair_vault(world.open("admin"), options=RepairOptions(accept_loss=True))
    assert world.open("writer").alarm is None
    world.back_up(tmp_path / "source")


def test_an_entry_that_would_use_up_the_numbers_counts_for_nothing(world: VaultWorld, tmp_path: Path) -> None:
    vault = world.open("writer")
    public = {"backup": os.urandom(16).hex(), "tier": "daily", "indexes": []}
    body = dict(vault.history.backups[2].open_body(vault.secrets))
    put_entry(world.store, forged(vault.secrets, "backup", vault.history.tip, public, sequence=FAR, body=body))
    assert world.back_up(tmp_path / "source").backup.sequence == 3


def test_an_entry_removed_between_two_is_noticed(world: VaultWorld, tmp_path: Path) -> None:
    world.back_up(tmp_path / "source")
    world.back_up(tmp_path / "source")
    for key in (layout.entry_key(3), layout.entry_copy_key(3)):
        world.store.delete(key)
    with pytest.raises(HistoryDamaged, match="missing"):
        load_history(world.store)


def test_an_entry_copied_to_a_higher_number_is_none(world: VaultWorld, tmp_path: Path) -> None:
    world.store.put(layout.entry_key(3), world.store.get(layout.entry_key(2)), mode=CREATE)
    assert load_history(world.store).tip.sequence == 2
    assert world.back_up(tmp_path / "source").backup.sequence == 4


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": True},
        {"sequence": 3.5},
        {"sequence": "3"},
        {"previous": None},
        {"write_id": 7},
        {"created_at": "yesterday"},
        {"public": []},
        {"public": {"backup": "x", "tier": "daily", "indexes": []}},
        {"public": {"backup": "0" * 32, "tier": "../daily", "indexes": []}},
        {"public": {"backup": "0" * 32, "tier": "daily", "indexes": [["0" * 32]]}},
        {"body": None},
        {"kind": "collect"},
        {"kind": "unheard-of"},
        {"more": 1},
    ],
)
def test_a_malformed_entry_of_a_stolen_writers_key_counts_for_nothing(
    world: VaultWorld, tmp_path: Path, change: dict[str, Any]
) -> None:
    vault = world.open("writer")
    found = json.loads(vault.history.tip.data)
    entry = {**found, "sequence": 3, "previous": vault.history.tip.digest, "write_id": os.urandom(16).hex(), **change}
    world.store.put(layout.entry_key(3), signed_anew(vault.secrets, entry), mode=CREATE)
    assert load_history(world.store).strays == (3,)
    assert world.back_up(tmp_path / "source").backup.sequence == 4


def test_an_entry_of_a_later_format_by_a_current_key_is_refused_and_by_another_passed_over(world: VaultWorld) -> None:
    vault = world.open("writer")
    found = json.loads(vault.history.tip.data)
    later = {**found, "format": "holdfast.vault.log/2", "sequence": 3, "new": 1}
    world.store.put(layout.entry_key(3), signed_anew(vault.secrets, later), mode=CREATE)
    with pytest.raises(UnknownFormat):
        load_history(world.store)
    stranger = replace(vault.secrets, signing=os.urandom(32))
    later["signer"] = b64(stranger.verifier)
    world.store.put(layout.entry_key(3), signed_anew(stranger, later), mode=OVERWRITE)
    assert load_history(world.store).strays == (3,)


@pytest.mark.parametrize(
    "other",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b'{"body"', b'{ "body"'),
        lambda data: data.replace(b'{"body"', b'{"body":null,"body"'),
        lambda data: data.replace(b'"kind":"backup"', b'"kind":"\\u0062ackup"'),
        lambda data: data.replace(b'"sequence":2', b'"sequence":2.0'),
    ],
)
def test_another_spelling_of_an_entry_is_refused(world: VaultWorld, other: Any) -> None:
    data = world.store.get(layout.entry_key(2))
    assert other(data) != data
    with pytest.raises(HistoryDamaged):
        parse_entry(other(data), "here")


# -- witnesses -----------------------------------------------------------------------------------------------------


def test_an_old_witness_put_under_a_higher_number_hides_nothing(world: VaultWorld, tmp_path: Path) -> None:
    """The right to create objects at a witness is not enough to hide that the newest backup was removed."""
    world.back_up(tmp_path / "source")
    repository = world.open().history.repository
    for store in world.witnesses.values():
        store.put(layout.witness_key(repository, FAR), store.get(layout.witness_key(repository, 1)), mode=CREATE)
    for key in (layout.entry_key(3), layout.entry_copy_key(3)):
        world.store.delete(key)
    assert isinstance(world.open("writer").alarm, RolledBack)


def test_a_witness_by_a_strangers_key_raises_no_alarm(world: VaultWorld) -> None:
    vault = world.open("writer")
    stranger = replace(vault.secrets, signing=os.urandom(32))
    tip = replace(vault.history.tip, sequence=50)
    write_witness(world.witnesses, stranger, tip, key_entries=[])
    assert world.open("writer").alarm is None


def test_an_entrys_signature_is_no_witnesss(world: VaultWorld) -> None:
    """Each kind of document is signed with a beginning of its own."""
    vault = world.open("writer")
    fields = {
        "digest": "sha256:" + "0" * 64,
        "format": "holdfast.vault.witness/1",
        "repository": vault.history.repository.hex(),
        "sequence": 9,
        "signer": b64(vault.secrets.verifier),
    }
    data = signed_anew(vault.secrets, fields)
    for store in world.witnesses.values():
        store.put(layout.witness_key(vault.history.repository, 9), data, mode=CREATE)
    assert world.open("writer").alarm is None


def test_a_site_that_missed_a_change_of_the_keys_is_told_of_it_later(world: VaultWorld, tmp_path: Path) -> None:
    site, store = next(iter(world.witnesses.items()))
    del world.witnesses[site]
    rotated(world)
    world.witnesses[site] = store
    world.back_up(tmp_path / "source")
    history = load_history(world.store)
    key = layout.witness_keys_key(history.repository, 3, history.key_entries[-1].digest)
    assert store.get(key) == world.store.get(layout.entry_key(3))


def test_something_of_a_packs_name_in_another_tier_hides_no_pack(world: VaultWorld, tmp_path: Path) -> None:
    """Anybody who may create objects can put it there, once he has seen the name."""
    names = [info.key for info in world.store.list("packs/")]
    for key in names:
        for tier in ("hourly", "yearly"):
            world.store.put(key.replace("daily", tier), b"no pack", mode=CREATE)
    assert world.back_up(tmp_path / "source").stored.packs == 0
    collect(world.open("admin"), CollectOptions(grace=timedelta(0), orphan_age=timedelta(0)))
    assert verify_vault(world.open("reader")).is_good
    assert {info.key for info in world.store.list("packs/daily/")} == set(names)


# -- one writer's lies ---------------------------------------------------------------------------------------------


def test_a_backup_nobody_can_read_hinders_no_other_and_is_forgotten_by_its_name(
    world: VaultWorld, tmp_path: Path
) -> None:
    name = os.urandom(16).hex()
    world.commit({"backup": name, "tier": "daily", "indexes": []}, {"source": 7})
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files(count=4)
    world.back_up(tmp_path / "source")
    assert not verify_vault(world.open("reader")).is_good
    _, plan = forget(world.open("admin"), backups=[name])
    assert [backup.backup_id for backup in plan.forgotten] == [name]
    assert verify_vault(world.open("reader")).is_good


def test_a_backup_named_like_an_older_one_does_not_get_in_its_way(world: VaultWorld) -> None:
    vault = world.open("writer")
    genuine = live_backups(vault)[0]
    world.commit(
        {"backup": genuine.backup_id, "tier": "daily", "indexes": []},
        vault.history.backups[2].open_body(vault.secrets),
    )
    assert find_backup(world.open(), genuine.backup_id).sequence == genuine.sequence


def test_an_index_of_older_backups_cannot_be_named_with_another_digest(world: VaultWorld, tmp_path: Path) -> None:
    vault = world.open("writer")
    (index_id, digest), *_ = vault.history.indexes.items()
    public = {"backup": os.urandom(16).hex(), "tier": "daily", "indexes": [[index_id.hex(), "blake3:" + "0" * 64]]}
    world.commit(public, vault.history.backups[2].open_body(vault.secrets))
    after = world.open("reader")
    assert after.history.indexes[index_id] == digest
    assert after.load_index().damaged == ()


def test_nothing_secret_is_in_a_representation(world: VaultWorld) -> None:
    vault = world.open("reader")
    from holdfast.engine.vault.crypto import ObjectKey

    key = ObjectKey.derive(vault.secrets.root, salt=b"0" * 16, context=b"x")
    text = repr(vault) + repr(vault.secrets) + repr(key) + repr(world.recipient)
    for secret in (vault.secrets.root, *vault.secrets.private.values(), key.key):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
    assert "AGE-SECRET" not in text
