"""Documents that belong to an export itself: what was promised, and how the data came about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.lineage import lineage_documents
from holdfast.engine.audit.seal import Collected
from holdfast.engine.policy.texts import policy_documents
from holdfast.engine.runtime import Runtime


def own_documents(runtime: Runtime, collected: Sequence[Collected]) -> Iterator[Document]:
    """The topology as it was written, the policies in force, and the lineage of the window.

    Raises:
        ConfigError: a policy cannot be read.
    """
    path = runtime.topology.path
    if path.is_file():
        yield Document("topology/holdfast.yaml", "application/yaml", path.read_bytes())
    for name, data, _digest in policy_documents(runtime.topology):
        yield Document(name, "text/plain", data)
    windows = [one.window for one in collected if one.window]
    if windows:
        start, end = min(one.start for one in windows), max(one.end for one in windows)
        yield from lineage_documents(runtime, start, end)
