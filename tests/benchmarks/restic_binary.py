"""The newest restic that can be had: what ``RESTIC`` names, Debian's newest package, or what is on the PATH.

Debian's package is fetched with apt from the archive this machine uses already, from its unstable suite where that can
be asked and from its own else, and unpacked beside the results. Nothing is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

_SUITES = ("unstable", "trixie", "bookworm")
_LONGEST_SECONDS = 300


def find_restic(folder: Path) -> tuple[Path, str] | None:
    """The binary and its version; ``None``: there is none, and why was printed.

    Args:
        folder: where one that is fetched is kept.
    """
    named = os.environ.get("RESTIC")
    candidates = [Path(named)] if named else [*_fetched(folder), *_on_the_path()]
    found = [(version, path) for path in candidates if (version := version_of(path))]
    if not found:
        print("==> No restic: RESTIC names none, apt gives none, the PATH has none. Only ours is measured.")
        return None
    version, path = max(found, key=lambda one: tuple(map(int, one[0].split("."))))
    return path, version


def version_of(binary: Path) -> str | None:
    try:
        said = subprocess.check_output([str(binary), "version"], text=True, timeout=30, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"restic (\d+\.\d+\.\d+)", said)
    return match[1] if match else None


def _on_the_path() -> list[Path]:
    found = shutil.which("restic")
    return [Path(found)] if found else []


def _fetched(folder: Path) -> list[Path]:
    binary = folder / "usr" / "bin" / "restic"
    if not binary.exists():
        try:
            _fetch(folder)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"==> restic could not be fetched with apt: {error}")
    return [binary] if binary.exists() else []


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    targets = _said("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(ORIGIN)")
    archives = [line.split()[0] for line in targets.splitlines() if line.split()[1:] == ["main", "Debian"]]
    if not archives:
        raise OSError("this machine's apt uses no archive of Debian's")
    keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    (apt / "sources.list").write_text("".join(f"deb {keys}{archives[0]} {suite} main\n" for suite in _SUITES))
    options = [
        "-o", f"Dir::Etc::sourcelist={apt / 'sources.list'}", "-o", f"Dir::Etc::sourceparts={apt / 'parts'}",
        "-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}",
        "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=",
    ]  # fmt: skip
    print("==> Fetching the newest restic of Debian's archive")
    try:
        _said("apt-get", *options, "update", folder=apt)
        _said("apt-get", *options, "download", "restic", folder=apt)
        _said("dpkg-deb", "-x", str(next(apt.glob("restic_*.deb"))), str(folder))
    finally:
        shutil.rmtree(apt, ignore_errors=True)


def _said(*command: str, folder: Path | None = None) -> str:
    return subprocess.check_output(command, text=True, timeout=_LONGEST_SECONDS, cwd=folder, stderr=subprocess.PIPE)
