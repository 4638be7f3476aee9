"""Our side of the vault's benchmark, a process a command, as the command line is.

    python vault_worker.py topology PLACE           writes ``HOLDFAST_TOPOLOGY`` and the key, for the command line
    python vault_worker.py init PLACE
    python vault_worker.py backup PLACE FOLDER
    python vault_worker.py restore PLACE FOLDER
    python vault_worker.py verify PLACE
    python vault_worker.py list PLACE FOLDER        what a run without a change cannot do without
    python vault_worker.py size PLACE PREFIX        prints ``size_bytes=N``

PLACE is a folder, or a key prefix in the S3 that the connection in ``AIRFLOW_CONN_SRC`` names.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import holdfast.cli  # noqa: F401 - begins the process as the command line does
from holdfast.engine.config import Cloud, EnvironmentConnections, Site
from holdfast.engine.objectstore import ObjectStore, StoreAccess, open_store
from holdfast.engine.vault.recipients import AgeRecipient
from holdfast.engine.vault.vault import Vault

PARTS = ("vault", "witness-a", "witness-b")


def site(place: str, name: str) -> dict[str, str]:
    """Where a part of a place lies: the vault, or one of its two witnesses."""
    told = {"region": "us-east-1", "jurisdiction": "EU", "connection": "src"}
    if place.startswith("/"):
        return {**told, "cloud": "local", "bucket": f"{place}/{name}"}
    return {**told, "cloud": "aws", "bucket": "bench", "prefix": f"{place}/{name}"}


def topology(place: str) -> None:
    """For the command line: the same places, the same key for every role."""
    identity()
    document = {
        "version": 1,
        "sites": {name: site(place, name) for name in PARTS},
        "vaults": {
            "bench": {
                "site": "vault",
                "prefix": "repository",
                "witnesses": list(PARTS[1:]),
                "keys": {
                    role: [f"file:{os.environ['BENCH_VAULT_IDENTITY']}"] for role in ("writer", "reader", "admin")
                },
            }
        },
        "groups": {},
    }
    if place.startswith("/"):
        for name in PARTS:
            Path(place, name).mkdir(parents=True, exist_ok=True)
    Path(os.environ["HOLDFAST_TOPOLOGY"]).write_text(json.dumps(document))


def store(place: str, name: str) -> ObjectStore:
    """A store of this place; the vault's own is below the prefix the topology names."""
    where = Site.model_validate(site(place, name))
    if name == PARTS[0]:
        where = where.model_copy(update={"prefix": f"{where.prefix}/repository".strip("/")})
    local = where.cloud is Cloud.LOCAL
    return open_store(name, where, StoreAccess() if local else EnvironmentConnections(os.environ).get("src"))


def witnesses(place: str) -> dict[str, ObjectStore]:
    return {name: store(place, name) for name in PARTS[1:]}


def identity() -> AgeRecipient:
    file = Path(os.environ["BENCH_VAULT_IDENTITY"])
    if not file.exists():
        file.write_text(AgeRecipient.make().identity or "")
    return AgeRecipient.from_identity(file.read_text(), str(file))


def opened(place: str, role: str) -> Vault:
    from holdfast.engine.vault.keysets import unlock
    from holdfast.engine.vault.vault import open_vault

    where = store(place, "vault")
    return open_vault("vault", where, unlock(where, role, [identity()]), witnesses=witnesses(place))


def init(place: str) -> None:
    from holdfast.engine.vault.keysets import make_vault

    make_vault(
        "vault",
        store(place, "vault"),
        {role: [identity()] for role in ("writer", "reader", "admin")},
        witnesses=witnesses(place),
    )


def backup(place: str, folder: str) -> None:
    from holdfast.engine.vault.backup import back_up
    from holdfast.engine.vault.sources import TreeSource

    back_up(opened(place, "writer"), TreeSource("bench", Path(folder), datetime.now(UTC)))


def restore(place: str, folder: str) -> None:
    from holdfast.engine.vault.backups import find_backup
    from holdfast.engine.vault.restore import restore_backup
    from holdfast.engine.vault.targets import FolderTarget

    vault = opened(place, "reader")
    restore_backup(vault, find_backup(vault), FolderTarget(Path(folder)))


def verify(place: str) -> None:
    from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault

    report = verify_vault(opened(place, "reader"), VerifyOptions(depth=Depth.FULL))
    if not report.is_good or not report.content_opened:
        raise SystemExit(f"the vault is not good: {report.problems}")


def list_only(place: str, folder: str) -> None:
    """The start of the process, the vault opened and listed, the folder walked."""
    from holdfast.engine.vault.sources import TreeSource

    opened(place, "writer").packs_there()
    for _ in TreeSource("bench", Path(folder), datetime.now(UTC)).objects():
        pass


def size(place: str, prefix: str) -> None:
    print(f"size_bytes={sum(info.size_bytes for info in store(place, prefix).list())}")


VERBS: dict[str, Callable[..., None]] = {
    "topology": topology,
    "init": init,
    "backup": backup,
    "restore": restore,
    "verify": verify,
    "list": list_only,
    "size": size,
}

if __name__ == "__main__":
    gc.freeze()
    if os.environ.get("BENCH_PROFILE"):
        import cProfile

        with cProfile.Profile() as profile:
            VERBS[sys.argv[1]](*sys.argv[2:])
        profile.dump_stats(os.environ["BENCH_PROFILE"])
    else:
        VERBS[sys.argv[1]](*sys.argv[2:])
    print(f"peak_bytes={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")
