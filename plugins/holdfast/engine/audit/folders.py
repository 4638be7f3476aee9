"""A folder that is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from holdfast.engine.audit.ledger import require_empty
from holdfast.errors import ConfigError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write what is to lie in a folder that is empty or not there; it gets its name at the end.

    One that is there already may be a mount, and is written into: then the file that makes it whole comes last.

    Raises:
        ConfigError: there is something in it, or it cannot be written.
    """
    is_there = folder.is_dir()
    part = folder if is_there else folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        require_empty(folder) if is_there or folder.exists() else part.mkdir(parents=True)
        try:
            yield part
            if not is_there:
                part.rename(folder)
        except BaseException:
            for left in [*part.iterdir()] if is_there else [part]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            raise
    except OSError as error:
        raise ConfigError(
            "the folder cannot be written",
            where=str(folder),
            expected="an empty folder, or none, where this user may write",
            found=str(error),
        ) from None
