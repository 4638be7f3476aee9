"""One operation on the vault in a folder, by a process that kills itself at one of its writes.

    dying_process.py FOLDER OPERATION NTH before|middle|after

In the middle of a write is with half of its bytes in a temporary file, as the local store writes them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.mirror import mirror_vault
from vault_faults import Sites, folder_sites, some_files

_WRITES = {"count": 0}
_LOCK = threading.Lock()

CHANGED = {**some_files(), "part-0/00": b"changed", "new": b"new" * 300}


class Dying(StoreDecorator):
    """Kills the process at its n-th write to any site."""

    def __init__(self, inner: Any, folder: Path, nth: int, how: str) -> None:
        super().__init__(inner)
        self._folder, self._nth, self._how = folder, nth, how

    def put(self, key: str, data: Any, **kwargs: Any) -> Any:
        nth = self._next()
        if nth == self._nth and self._how == "middle":
            path = self._folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}#1").write_bytes(bytes(data)[: len(data) // 2])
        self._die(nth, "before", "middle")
        version = self.inner.put(key, data, **kwargs)
        self._die(nth, "after")
        return version

    def delete(self, key: str) -> None:
        nth = self._next()
        self._die(nth, "before", "middle")
        self.inner.delete(key)
        self._die(nth, "after")

    def _next(self) -> int:
        with _LOCK:
            _WRITES["count"] += 1
            return _WRITES["count"] - 1

    def _die(self, nth: int, *hows: str) -> None:
        if nth == self._nth and self._how in hows:
            os.kill(os.getpid(), signal.SIGKILL)


def operate(sites: Sites, operation: str) -> None:
    if operation == "backup":
        sites.back_up(CHANGED, state="changed")
    elif operation == "forget":
        forget(sites.open("admin"), Keep(last=1))
    elif operation == "collect":
        sites.collect()
    else:
        mirror_vault(sites.store(), sites.mirror_store())


def main(folder: Path, operation: str, nth: int, how: str) -> None:
    sites = folder_sites(folder)
    sites.vault = Dying(sites.vault, folder / "vault", nth, how)
    sites.mirror = Dying(sites.mirror, folder / "mirror", nth, how)
    sites.witnesses = {name: Dying(store, folder / name, nth, how) for name, store in sites.witnesses.items()}
    operate(sites, operation)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
