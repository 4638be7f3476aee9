"""The golden repository of format 1 is read by the engine, and by a reader written from the page alone."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.keysets import unlock
from holdfast.engine.vault.recipients import SecretRecipient
from holdfast.engine.vault.restore import restore_backup
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.vault import open_vault
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from vault_format_reader import Refused, Vault, unwrap_secret, witnessed
from vault_world import read_tree

GOLDEN = Path(__file__).parents[2] / "golden" / "vault"


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def store_of(name: str, files: Mapping[str, bytes]) -> ObjectStore:
    store = memory_store(name)
    for key, data in files.items():
        store.put(key, data, mode=CREATE)
    return store


class Golden:
    """One golden repository in memory."""

    def __init__(self, folder: Path) -> None:
        self.vault, self.witness = read_folder(folder / "vault"), read_folder(folder / "witness")
        self.expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
        self.key = bytes.fromhex(self.expected["key"])

    def check_with_the_engine(self, out: Path) -> None:
        store = store_of("golden", self.vault)
        repository = self.expected["repository"]
        secrets = unlock(store, "reader", [SecretRecipient("golden", self.key)], repository=repository)
        vault = open_vault("golden", store, secrets, witnesses={"witness": store_of("witness", self.witness)})
        assert vault.alarm is None
        assert vault.history.tip.sequence == self.expected["newest"]
        assert vault.witnessed[0].sequence == self.expected["newest"]
        assert verify_vault(vault, VerifyOptions(depth=Depth.FULL)).damaged_packs == []
        for backup, wanted in zip(live_backups(vault), self.expected["live"], strict=True):
            found = (backup.sequence, backup.source, backup.tier, backup.held)
            assert found == tuple(wanted[name] for name in ("entry", "source", "tier", "held"))
            restore_backup(vault, backup, FolderTarget(out / str(backup.sequence)))
            assert digests(read_tree(out / str(backup.sequence))) == wanted["files"]

    def check_with_the_pages_reader(self) -> Vault:
        vault = Vault.open(self.vault, self.expected["repository"], unwrap_secret("golden", self.key))
        assert sorted(vault.state.live) == [wanted["entry"] for wanted in self.expected["live"]]
        for wanted in self.expected["live"]:
            body = vault.body(wanted["entry"])
            entry = vault.state.live[wanted["entry"]]
            assert (body["source"], entry.public["tier"]) == (wanted["source"], wanted["tier"])
            assert (wanted["entry"] in vault.state.held) == wanted["held"]
            assert digests(vault.files(wanted["entry"])) == wanted["files"]
            assert body["objects"] == len(wanted["files"])
        assert vault.state.tip.number == self.expected["newest"]
        assert witnessed(self.witness, vault.state) == (vault.state.tip.number, vault.state.tip.digest)
        return vault


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_v1", GOLDEN / "make_v1.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_v1"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made_now(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """What today's code writes."""
    folder = tmp_path_factory.mktemp("golden") / "v1"
    script().main(folder)
    return Golden(folder)


@pytest.fixture
def golden() -> Golden:
    return Golden(GOLDEN / "v1")


def test_the_golden_repository_is_read(golden: Golden, tmp_path: Path) -> None:
    golden.check_with_the_engine(tmp_path)


def test_the_golden_repository_is_read_by_the_page(golden: Golden) -> None:
    golden.check_with_the_pages_reader()


def test_the_golden_repository_has_what_it_is_there_for(golden: Golden) -> None:
    vault = golden.check_with_the_pages_reader()
    assert sum(map(len, golden.vault.values())) < 300 * 1024
    assert sorted(int(number) for number in vault.state.keys["recipients"]) == [1, 2]
    assert len(vault.secrets.private) == 2
    generations = {int.from_bytes(data[6:8], "big") for key, data in golden.vault.items() if key.startswith("packs/")}
    assert generations == {0, 1, 2}
    assert {chunk.codec for chunk in vault.chunks.values()} == {0, 1}
    assert {entry.kind for entry in vault.state.live.values()} == {"backup"}
    numbers = {int(Path(key).stem) for key in golden.vault if key.startswith("log/")}
    assert set(range(1, vault.state.tip.number)) - numbers, "entries were removed"
    assert vault.state.held
    strays = [key for key, data in golden.vault.items() if data == b"no entry\n"]
    assert strays == [f"log/{max(numbers) - 2:012d}.json"]


def test_what_is_written_today_is_read_by_the_page(made_now: Golden, tmp_path: Path) -> None:
    made_now.check_with_the_pages_reader()
    made_now.check_with_the_engine(tmp_path)


def test_the_page_tells_how_a_lost_index_is_made_anew(golden: Golden) -> None:
    vault = golden.check_with_the_pages_reader()
    for pack in (key for key in golden.vault if key.startswith("packs/")):
        _, chunks = vault.table(pack)
        assert chunks
        assert all(vault.chunks[chunk.name] == chunk for chunk in chunks if chunk.name in vault.chunks)


def flipped(golden: Golden, key: str, place: int) -> Golden:
    other = Golden(GOLDEN / "v1")
    data = golden.vault[key]
    other.vault[key] = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
    return other


def needed_places(golden: Golden) -> dict[str, int]:
    """In each object whose bytes restores need, a place that they do."""
    vault = golden.check_with_the_pages_reader()
    places = {key: len(data) // 2 for key, data in golden.vault.items() if key.startswith("indexes/")}
    for wanted in golden.expected["live"]:
        for row in vault.rows(wanted["entry"]):
            places.update({vault.chunks[name].pack: vault.chunks[name].offset for name in row["chunks"]})
        for name, *_ in vault.body(wanted["entry"])["segments"]:
            chunk = vault.chunks[bytes.fromhex(name)]
            places[chunk.pack] = chunk.offset
    return places


def test_a_flipped_bit_is_refused_by_the_page(golden: Golden) -> None:
    places = needed_places(golden)
    assert {key.partition("/")[0] for key in places} == {"indexes", "packs"}
    for key, place in places.items():
        with pytest.raises((Refused, InvalidTag)):
            flipped(golden, key, place).check_with_the_pages_reader()


def test_a_flipped_bit_is_noticed_by_the_engine(golden: Golden) -> None:
    for key, place in needed_places(golden).items():
        store = store_of("golden", flipped(golden, key, place).vault)
        secrets = unlock(store, "reader", [SecretRecipient("golden", golden.key)])
        assert not verify_vault(open_vault("golden", store, secrets), VerifyOptions(depth=Depth.FULL)).is_good


def test_the_page_refuses_another_repository(golden: Golden) -> None:
    with pytest.raises(Refused):
        Vault.open(golden.vault, "0" * 32, unwrap_secret("golden", golden.key))
