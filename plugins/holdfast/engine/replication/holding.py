"""Which objects a target cannot hold for their names, told before a byte is read.

What is in a snapshot is the same everywhere, so a target that cannot hold one of its objects cannot have it at all:
the others go on, and this one says which objects are in the way.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.errors import InvalidKey
from holdfast.engine.objectstore.keys import MAXIMUM_KEY_BYTES
from holdfast.engine.replication.reports import Refusal
from holdfast.engine.snapshot import keys

#: What a file system takes, less the two characters the store writes a file under before it gives it its name.
LONGEST_NAME_BYTES = 255 - 2
_MOST_NAMED = 100
_NO_DIGEST = "blake3:" + "0" * 64
_WAY_OUT = "rename the object, or exclude it from the dataset by `sync.filters.exclude`"


def cannot_hold(
    paths: pa.ChunkedArray, *, folder: str, site_prefix: str, own_keys: bool, is_folder: bool
) -> tuple[Refusal, ...]:
    """The paths that cannot be kept at a target, the first hundred, and why.

    Two objects of which one's key is a folder of the other's are not found here: whether they meet in a local folder
    depends on their bytes.

    Args:
        folder: of the dataset under ``data/``.
        site_prefix: of the target's keys in its bucket.
        own_keys: objects lie at their own keys there, and not under ``.versions/``.
        is_folder: the target is a local folder.
    """
    own, spare = keys.object_key(folder, ""), keys.version_key(folder, "", _NO_DIGEST)
    around = len((own if own_keys else spare).encode()) + (len(site_prefix.encode()) + 1 if site_prefix else 0)
    size = pc.binary_length(paths)
    found = [
        Refusal(path, f"its key would have {around + len(path.encode())} of {MAXIMUM_KEY_BYTES} bytes; {_WAY_OUT}")
        for path in paths.filter(pc.greater(size, MAXIMUM_KEY_BYTES - around)).slice(0, _MOST_NAMED).to_pylist()
    ]
    if is_folder:
        for path in paths.filter(pc.greater(size, LONGEST_NAME_BYTES)).to_pylist():
            longest = max(len(name.encode()) for name in path.split("/"))
            if longest > LONGEST_NAME_BYTES and len(found) < _MOST_NAMED:
                found.append(Refusal(path, f"a name in it has {longest} of {LONGEST_NAME_BYTES} bytes; {_WAY_OUT}"))
    return tuple(found)


def not_held(found: tuple[Refusal, ...], where: str) -> InvalidKey:
    """The error of a target that cannot hold these."""
    first = found[0]
    return InvalidKey(
        f"{len(found)} objects of the dataset cannot be kept here, so their snapshot cannot be either",
        where=where,
        found=f"{first.path[:300]!r}: {first.reason.partition('; ')[0]}",
        fix="Rename the objects at the source, or exclude them from the dataset by `sync.filters.exclude`",
    )
