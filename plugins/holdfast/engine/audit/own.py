"""Documents that belong to an export itself: what was promised."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.audit.interface import Document
from holdfast.engine.policy.texts import policy_documents
from holdfast.engine.runtime import Runtime


def own_documents(runtime: Runtime) -> Iterator[Document]:
    """The topology as it was written, and the policies in force.

    Raises:
        ConfigError: a policy cannot be read.
    """
    path = runtime.topology.path
    if path.is_file():
        yield Document("topology/holdfast.yaml", "application/yaml", path.read_bytes())
    for name, data, _digest in policy_documents(runtime.topology):
        yield Document(name, "text/plain", data)
