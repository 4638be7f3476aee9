"""Measure every backend of the sandbox and write the table the documentation includes.

``python -m holdfast.sandbox.capabilities docs/reference/object-store-capabilities.md`` (``--check``: compare only)
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from holdfast.engine.config import Cloud, EnvironmentConnections, load_topology
from holdfast.engine.objectstore import ObjectStore, local_store, memory_store, open_store
from holdfast.engine.objectstore.probe import Measurement, measure
from holdfast.engine.objectstore.table import markdown
from holdfast.sandbox.supervisor import Sandbox

_PAGE = """\
<!-- Measured by `python -m holdfast.sandbox.capabilities`; a test compares this page with what it measures. -->

# Object stores: what was measured

Each cell was seen by doing it, through `holdfast.engine.objectstore`. The three right-hand columns are **emulators**:
moto, the project's own Google Cloud Storage server and Azurite. They say how Holdfast behaves on a server that answers
like this; they do not say what a cloud does. To measure a real bucket, see
[Object stores](object-stores.md#a-real-cloud).

{table}
- *no* for "streamed put, create-only" on every backend: a multipart upload carries no precondition in `obstore`. Small
  streams do not escape this: the call is refused whatever its size.
- *no* for "equal bytes written again are a new version": the ETag is the MD5 of the bytes. A compare-and-swap over such
  a store cannot tell A from A written again after B, so records that are swapped carry a write-id.
- *no* for "an overwritten version can still be read": the bucket was made without versioning.
- Object locks are not in this table: what each backend has, and that memory, local folders and Azurite keep none, is in
  [Immutability](vault-immutability.md); `holdfast vault locks` says it of each site of a vault.
"""
_HEADINGS = {Cloud.AWS: "S3 (moto)", Cloud.GCP: "GCS (own server)", Cloud.AZURE: "Azure (Azurite)"}


def sandbox_stores(topology: Path, environ: Mapping[str, str]) -> dict[str, ObjectStore]:
    """The store of each emulated cloud, by heading."""
    world = load_topology(topology, environ)
    connections = EnvironmentConnections(environ)
    return {
        _HEADINGS[site.cloud]: open_store(name, site, connections.get(site.connection), retry=None)
        for name, site in sorted(world.sites.items(), key=lambda item: list(_HEADINGS).index(item[1].cloud))
    }


def measure_all(topology: Path, environ: Mapping[str, str], scratch: Path) -> dict[str, tuple[Measurement, ...]]:
    """Measure memory, a local folder and the sandbox's clouds.

    Args:
        topology: the topology the sandbox runs.
        environ: the sandbox's environment.
        scratch: an empty folder for the local store.
    """
    stores = {
        "memory": memory_store(),
        "local folder": local_store("local", scratch),
        **sandbox_stores(topology, environ),
    }
    folder = f"probe/{uuid.uuid4().hex}"
    return {heading: measure(store, folder=folder) for heading, store in stores.items()}


def page(columns: Mapping[str, tuple[Measurement, ...]]) -> str:
    """The documentation page."""
    return _PAGE.format(table=markdown(columns))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="holdfast.sandbox.capabilities", description=__doc__)
    parser.add_argument("path", type=Path, help="the page to write")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--topology", type=Path, default=Path("include/holdfast.yaml"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "local"
        scratch.mkdir()
        box = Sandbox(Path(folder) / "sandbox", topology=options.topology)
        box.up(timeout=120, agents=False)
        try:
            text = page(measure_all(options.topology, box.environment(), scratch))
        finally:
            box.down()
    if not options.check:
        options.path.write_text(text, encoding="utf-8")
        return 0
    if options.path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{options.path} is not what was measured:\n\n{text}")  # noqa: T201 - a command's output
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
