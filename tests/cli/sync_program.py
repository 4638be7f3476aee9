"""Run by `test_sync.py` in a process of its own: ``holdfast …`` over three folders whose standbys are slow to write.

sync_program.py TOPOLOGY PUT_SECONDS ARGUMENT…
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from folders import folder_runtime
from holdfast.cli.main import app
from holdfast.engine.runtime import Runtime


def main() -> None:
    topology, seconds = Path(sys.argv[1]), float(sys.argv[2])

    def from_environment(*_args: Any, **_kwargs: Any) -> Runtime:
        return folder_runtime(topology, put_seconds=seconds)

    Runtime.from_environment = from_environment  # type: ignore[method-assign,assignment]
    app(sys.argv[3:])


if __name__ == "__main__":
    main()
