"""How a job's command, environment and topology reach the container of a managed service.

A managed service starts an image with environment variables and nothing else, and some of them cut those short:
SageMaker takes 100 variables of 512 characters. What does not fit beside the rest is one document, compressed and cut
into ``HOLDFAST_PACKED_00``, ``HOLDFAST_PACKED_01``, ...: no object that could be missing, no login needed to read it.

In the image, which has `holdfast` in it, the service starts::

    python -m holdfast.engine.compute.container

which writes the topology to a file, sets the environment and *becomes* the command: signals and exit codes are the
trainer's own.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdfast.engine.compute.errors import JobNotStarted
from holdfast.engine.compute.remote import command_elsewhere
from holdfast.engine.config.load import TOPOLOGY_VARIABLE
from holdfast.errors import ConfigError

#: What the service starts in the image.
ENTRYPOINT = ("python", "-m", "holdfast.engine.compute.container")
PACKED = "HOLDFAST_PACKED_"
_PYTHON = "{python}"


def packed_environment(
    environment: Mapping[str, str],
    command: Sequence[str],
    topology: Path,
    *,
    value_limit: int,
    entry_limit: int,
    where: str,
) -> dict[str, str]:
    """The variables that carry all of it, none longer than ``value_limit`` characters, at most ``entry_limit``.

    The submitter's own interpreter becomes the image's, and a file beside the topology its path relative to the
    image's working directory.

    Raises:
        JobNotStarted: the topology cannot be read, or it is too much for the service.
    """
    try:
        text = topology.read_text(encoding="utf-8")
    except OSError as error:
        raise JobNotStarted(
            "the topology cannot be sent along", where=where, expected=f"a readable file {topology}", found=str(error)
        ) from None
    plain = {
        name: value
        for name, value in environment.items()
        if len(value) <= value_limit and name.isidentifier() and name.isascii() and name != TOPOLOGY_VARIABLE
    }
    rest = {name: value for name, value in environment.items() if name not in plain and name != TOPOLOGY_VARIABLE}
    words = command_elsewhere(command, topology.parent, python=_PYTHON)
    document = json.dumps({"command": words, "environment": rest, "topology": text}, sort_keys=True)
    packed = base64.b64encode(zlib.compress(document.encode(), 9)).decode("ascii")
    parts = [packed[start : start + value_limit] for start in range(0, len(packed), value_limit)]
    carried = plain | {f"{PACKED}{number:02d}": part for number, part in enumerate(parts)}
    if len(carried) > entry_limit:
        raise JobNotStarted(
            "the environment is too large for the service",
            where=where,
            expected=f"at most {entry_limit} variables of {value_limit} characters, the compressed topology among them",
            found=f"{len(carried)}, {len(parts)} of them for the topology and long values",
            fix="Give the site an environment_file with less in it, and shorten the topology",
        )
    return carried


def unpacked(environ: Mapping[str, str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command and environment that `packed_environment` carried; the topology is written into ``folder``.

    Raises:
        ConfigError: the variables are not all there, or are not what was packed.
    """
    parts = [environ[name] for name in sorted(environ) if name.startswith(PACKED)]
    try:
        document = json.loads(zlib.decompress(base64.b64decode("".join(parts), validate=True)))
        command, more, text = list(document["command"]), dict(document["environment"]), str(document["topology"])
    except (ValueError, zlib.error, KeyError, TypeError) as error:
        raise ConfigError(
            "the job's environment cannot be read",
            where=f"{PACKED}*",
            expected="what the submitter packed: all parts of it, by the same version",
            found=f"{len(parts)} parts: {error}",
        ) from None
    file = folder / "topology.yaml"
    file.write_text(text, encoding="utf-8")
    kept = {name: value for name, value in environ.items() if not name.startswith(PACKED)}
    words = [sys.executable if word == _PYTHON else str(word) for word in command]
    return words, {**kept, **more, TOPOLOGY_VARIABLE: str(file)}


def main(
    environ: Mapping[str, str] = os.environ,
    become: Callable[[str, list[str], dict[str, str]], object] = os.execvpe,
) -> None:
    """Become the job's command."""
    command, environment = unpacked(environ, Path(tempfile.mkdtemp(prefix="holdfast-")))
    become(command[0], command, environment)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, OSError) as error:
        sys.exit(f"the job's command cannot be started: {error}")
