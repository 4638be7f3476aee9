"""Make the golden repository of format 1 anew: `python tests/golden/vault/make_v1.py [folder]`.

Until the format is released it may be made again when the format changes. From then on `v1/` stays as it is for ever:
every later version must read it. It holds, all made by the engine:

- a key object per role for one text key, which is no secret: `KEY`;
- three backups of `market`: the first was forgotten, and the packs only it needed were collected and removed;
- the second is under a legal hold and was made before the keys were rotated: another generation, another writer;
- the third came after; an object at the next number of the log is no entry;
- a backup `models` of another tier, with chunks that do not compress, an empty object and a path beyond ASCII;
- a witness.

`expected.json` says what each live backup holds, by digest.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault import layout
from holdfast.engine.vault.backup import BackupOptions, back_up
from holdfast.engine.vault.backups import Backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.forget import forget, hold
from holdfast.engine.vault.keysets import make_vault, rotate_keys, unlock
from holdfast.engine.vault.recipients import SecretRecipient
from holdfast.engine.vault.sources import SourceObject
from holdfast.engine.vault.vault import Vault, open_vault

HERE = Path(__file__).parent
#: Only of this repository, and known to all.
KEY = SecretRecipient("golden", bytes(range(32)))
SMALL = BackupOptions(chunk_bytes=16 * 1024, pack_bytes=24 * 1024)
START = datetime(2026, 3, 1, 6, tzinfo=UTC)


@dataclass(frozen=True)
class FilesSource:
    """Objects in memory as something to back up."""

    name: str
    files: Mapping[str, bytes]
    taken_at: datetime
    kind: str = "tree"
    is_remote: bool = False
    origin: Mapping[str, Any] = field(default_factory=lambda: {"made by": "tests/golden/vault/make_v1.py"})

    def objects(self) -> Iterator[SourceObject]:
        for path in sorted(self.files, key=str.encode):
            state = hashlib.sha256(self.files[path]).hexdigest()
            yield SourceObject(path, len(self.files[path]), self.taken_at, state, None, 0o640)

    def read(self, item: SourceObject) -> Iterator[bytes]:
        yield self.files[item.path]

    def finish(self) -> None:
        return None


def market(seed: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    table = "".join(f"2026-03-{day:02},{rng.randrange(10_000)}\n" for day in range(1, 29)).encode() * 20
    return {
        "prices.csv": table + b"".join(b"%d,%d\n" % (number, rng.randrange(10)) for number in range(1_000)),
        "same/in/all.bin": random.Random(1).randbytes(20_000),
        f"only-{seed}/noise.bin": rng.randbytes(18_000),
    }


def models() -> dict[str, bytes]:
    return {"empty": b"", "modelle/größe-1.bin": random.Random(5).randbytes(40_000), "weights.txt": b"0.25 " * 9_000}


def open_as(store: ObjectStore, role: str, witness: ObjectStore, clock: FakeClock) -> Vault:
    return open_vault("golden", store, unlock(store, role, [KEY]), witnesses={"witness": witness}, clock=clock)


def make(store: ObjectStore, witness: ObjectStore) -> str:
    """Make the repository. Returns its id."""
    clock = FakeClock(START)
    at_once = CollectOptions(grace=timedelta(0), orphan_age=timedelta(0))
    roles = {role: [KEY] for role in ("writer", "reader", "admin")}
    _, secrets = make_vault("golden", store, roles, witnesses={"witness": witness}, clock=clock)

    def backed_up(name: str, files: Mapping[str, bytes], tier: str = "daily") -> Backup:
        clock.advance(3600)
        options = BackupOptions(tier, SMALL.chunk_bytes, {"golden": "yes"}, pack_bytes=SMALL.pack_bytes)
        source = FilesSource(name, files, clock.now())
        return back_up(open_as(store, "writer", witness, clock), source, options).backup

    first = backed_up("market", market(1))
    second = backed_up("market", market(2))
    hold(open_as(store, "admin", witness, clock), [second], held=True)
    admin, _ = forget(open_as(store, "admin", witness, clock), backups=[first.backup_id])
    for _ in range(3):
        admin, _ = collect(admin, at_once)
    rotate_keys(
        admin,
        {"writer": [KEY], "reader": [KEY]},
        writer=secrets.writer,
        reader=secrets.reader,
        new_generation=True,
        new_signer=True,
    )
    tip = open_as(store, "reader", witness, clock).history.tip.sequence
    store.put(layout.entry_key(tip + 1), b"no entry\n", mode=CREATE)
    backed_up("market", market(3))
    backed_up("models", models(), "monthly")
    return secrets.admin.repository.hex()


def expected(vault: Vault, repository: str) -> dict[str, Any]:
    contents = {"market": {2: market(2), 3: market(3)}, "models": {0: models()}}
    live = live_backups(vault)
    found = []
    for backup in live:
        seeds = contents[backup.source]
        number = [one for one in live if one.source == backup.source].index(backup)
        files = list(seeds.values())[number]
        found.append(
            {
                "entry": backup.sequence,
                "source": backup.source,
                "tier": backup.tier,
                "held": backup.held,
                "files": {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())},
            }
        )
    return {"repository": repository, "key": KEY.secret.hex(), "newest": vault.history.tip.sequence, "live": found}


def main(folder: Path) -> None:
    store, witness = memory_store("golden"), memory_store("witness")
    repository = make(store, witness)
    vault = open_as(store, "reader", witness, FakeClock(START))
    shutil.rmtree(folder, ignore_errors=True)
    for name, bucket in (("vault", store), ("witness", witness)):
        for info in bucket.list(""):
            path = folder / name / info.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket.get(info.key))
    (folder / "expected.json").write_text(json.dumps(expected(vault, repository), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "v1")
