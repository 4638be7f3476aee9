"""What the commands of ``holdfast audit`` share: which exports, whose keys, how a state looks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.engine.audit.privacy.keys import SubjectKeys
    from holdfast.engine.audit.tlog.keys import VerifierKey

#: Where a verifier's trusted keys come from when none is named: one key in each line.
KEYS_VARIABLE = "HOLDFAST_AUDIT_KEYS"
#: What a key of drills' evidence begins with, among the others.
DRILL = "drill:"
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        help=f"A trusted key: NAME+ID+BASE64, drill:KEY for drills' evidence, or a file of such lines; "
        f"default ${KEYS_VARIABLE}.",
    ),
]
NeedOption = Annotated[int | None, typer.Option("--need", min=1, help="How many of the keys must have signed: all.")]
ExportsArgument = Annotated[list[Path], typer.Argument(help="An export's folder, or a folder of several.")]
SubjectKeysOption = Annotated[
    Path | None,
    typer.Option("--subject-keys", help="The topology of the ledger, to open protected events with its keys."),
]


def trusted_keys(given: Sequence[str] | None) -> list[VerifierKey]:
    """Keys of checkpoints from the command line, else from the environment. Raises ConfigError."""
    from holdfast.engine.audit.tlog.keys import VerifierKey

    lines = [line for line in _given(given) if not line.startswith(DRILL)]
    return list({str(key): key for key in map(VerifierKey.parse, lines)}.values())


def drill_keys(given: Sequence[str] | None) -> frozenset[str]:
    """The ids of the keys of drills, from the same places; none: none was given. Raises ConfigError."""
    from holdfast.engine.drill.dsse import key_id_of
    from holdfast.engine.drill.keys import load_public_key

    lines = [line.removeprefix(DRILL) for line in _given(given) if line.startswith(DRILL)]
    return frozenset(key_id_of(load_public_key(line)) for line in lines)


def _given(given: Sequence[str] | None) -> list[str]:
    lines: list[str] = []
    for text in given or filter(None, os.environ.get(KEYS_VARIABLE, "").splitlines()):
        is_key = text.startswith(DRILL) or text.count("+") >= 2
        lines += [text] if is_key else _lines(Path(text).expanduser())
    return lines


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the trusted keys cannot be read",
            where=str(file),
            expected="NAME+ID+BASE64, drill:KEY, or a file of such lines",
            found=str(error),
            fix="`holdfast audit keys` prints them where the ledger is sealed",
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def subject_ring(topology: Path | None) -> SubjectKeys | None:
    """The keys of the subjects of a topology's ledger."""
    from holdfast.engine.audit.privacy.shred import subject_keys
    from holdfast.engine.runtime import Runtime

    return subject_keys(Runtime.from_environment(topology)) if topology else None


def state_text(state: str) -> str:
    colour = {"complete": "green", "gap": "red"}.get(state, "yellow")
    return f"[{colour}]{state}[/]"
