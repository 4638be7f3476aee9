"""A small world of vaults for tests: stores in memory, two witnesses, the keys of every role."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.clock import Clock, FakeClock
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backup import BackupOptions, BackupReport, back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.recipients import AgeRecipient, Recipient
from holdfast.engine.vault.restore import RestoreOptions, RestoreReport, restore_backup
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.vault import Vault, open_vault

#: Small packs, so that a test has several.
SMALL = BackupOptions(chunk_bytes=16 * 1024, pack_bytes=128 * 1024)


@dataclass
class VaultWorld:
    """One vault.

    Args:
        store: where it lies; what a test puts around it is used from the next `open` on.
    """

    store: ObjectStore = field(default_factory=lambda: memory_store("vault"))
    witnesses: dict[str, ObjectStore] = field(
        default_factory=lambda: {name: memory_store(name) for name in ("witness-a", "witness-b")}
    )
    clock: Clock = field(default_factory=FakeClock)
    recipient: Recipient = field(default_factory=AgeRecipient.make)

    def make(self) -> VaultWorld:
        make_vault(
            "vault",
            self.store,
            {role: [self.recipient] for role in ("writer", "reader", "admin")},
            witnesses=self.witnesses,
            clock=self.clock,
        )
        return self

    def open(self, role: str = "writer") -> Vault:
        secrets = unlock(self.store, role, [self.recipient])
        return open_vault("vault", self.store, secrets, witnesses=self.witnesses, clock=self.clock)

    def back_up(self, folder: Path, *, name: str = "tree", options: BackupOptions = SMALL) -> BackupReport:
        return back_up(self.open(), TreeSource(name, folder, datetime.now(UTC)), options)

    def commit(self, public: Mapping[str, Any], body: Mapping[str, Any]) -> LogEntry:
        """A backup entry that says whatever it likes."""
        vault = self.open()
        return append(
            self.store,
            vault.secrets,
            "backup",
            clock=self.clock,
            tip=vault.history.tip,
            signers=vault.history.keys.signers,
            describe=lambda _tip: (public, body),
        )

    def restore(self, folder: Path, wanted: str | None = None, options: RestoreOptions | None = None) -> RestoreReport:
        vault = self.open("reader")
        return restore_backup(vault, find_backup(vault, wanted), FolderTarget(folder), options)


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def some_files(seed: int = 1, *, count: int = 20, largest: int = 60_000) -> dict[str, bytes]:
    rng = random.Random(seed)
    files = {f"part-{number % 3}/{number:03}.bin": rng.randbytes(rng.randrange(largest)) for number in range(count)}
    return {**files, "empty": b"", "text.csv": b"date,price\n" + b"2026-01-02,1.5\n" * 5_000}
