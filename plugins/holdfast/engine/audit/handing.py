"""What is handed to an export, and the copy it hands out: looked at before anything is sealed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.ledger import export_names, require_empty
from holdfast.engine.audit.manifest import Manifest, safe_path
from holdfast.errors import ConfigError, HoldfastError


def require_place(folder: Path) -> None:
    """Raises ConfigError unless a folder is empty or not there, and can be written. It is left as it was."""
    made = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        require_empty(folder)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            "the copy cannot be written there; nothing was sealed",
            where=str(folder),
            expected="an empty folder that can be written, or none",
            found=error.strerror or str(error),
            fix="Name another folder",
        ) from None
    finally:
        for one in made:
            with suppress(OSError):
                one.rmdir()


def require_documents(documents: Iterable[Document]) -> list[Document]:
    """The same documents. Raises ConfigError: a name cannot be one of an export, or two are one."""
    found: dict[str, Document] = {}
    for document in documents:
        try:
            safe_path(document.name)
        except ValueError as error:
            raise _bad_name("a document's name cannot be one of an export", document, str(error)) from None
        if document.name.casefold() in found:
            raise _bad_name("two documents have the same name", document, "names that differ, also without case")
        found[document.name.casefold()] = document
    return list(found.values())


def copy_export(export: Path, manifest: Manifest, output: Path, sealed_at: str) -> None:
    """Copy a sealed export into an empty folder; what is written of it is removed again where it cannot be whole.

    Args:
        sealed_at: where it lies in the ledger, for people.

    Raises:
        HoldfastError: it cannot be written; the seal counts all the same.
    """
    targets = {output / name: export / name for name in export_names(export, manifest)}
    written = list[Path]()
    try:
        for target, file in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            written.append(target)
            shutil.copyfile(file, target)
    except OSError as error:
        with suppress(OSError):
            for one in written:
                one.unlink(missing_ok=True)
        raise HoldfastError(
            "the export is sealed, but its copy could not be written",
            where=str(output),
            expected="room for it in a folder that can be written",
            found=error.strerror or str(error),
            fix=f"Do not run it again for the copy: it lies in {sealed_at}, and `holdfast audit fetch` brings one",
        ) from None


def _bad_name(what: str, document: Document, expected: str) -> ConfigError:
    return ConfigError(
        f"{what}; nothing was sealed",
        where=document.name,
        expected=expected.partition("; found")[0].removeprefix("expected "),
        found=repr(document.name),
        fix="Rename it",
    )
