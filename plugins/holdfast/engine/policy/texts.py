"""Which policy a residency class has: the file it names, or one made of its list of jurisdictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from holdfast.engine.config.models import Topology
from holdfast.engine.policy.compiled import Policy, schema_text
from holdfast.errors import ConfigError

#: A policy file's size at most.
MAX_POLICY_BYTES = 256 * 1024


def policy_of(topology: Topology, name: str) -> Policy:
    """The policy of a residency class. A file is read once for a topology: a run decides by one text.

    Raises:
        ConfigError: its file cannot be read, lies outside the topology's folder, or is too large.
        KeyError: there is no such class.
    """
    residency = topology.residency[name]
    if residency.policy is None:
        return of_jurisdictions(name, residency.jurisdictions)
    known: dict[str, Policy] = topology._policies
    if residency.policy not in known:
        known[residency.policy] = Policy(residency.policy, _read(topology.path.parent, residency.policy, name))
    return known[residency.policy]


def of_jurisdictions(name: str, jurisdictions: tuple[str, ...]) -> Policy:
    """The policy that a list of jurisdictions is short for.

    Args:
        name: of the class; empty for one without a topology.
    """
    at = f"residency.{name}" if name else "residency"
    listed = ", ".join(_quoted(one) for one in jurisdictions)
    return Policy(
        at,
        f"@id({_quoted(f'{at}.jurisdictions')})\n"
        "permit (principal, action, resource)\n"
        f"when {{ [{listed}].contains(context.target.jurisdiction) }};\n",
    )


def check_policies(topology: Topology) -> None:
    """Read and check every policy file that a topology names. One without any costs nothing.

    Raises:
        ConfigError: the first one that is wrong, with file and line.
    """
    for name, residency in topology.residency.items():
        if residency.policy is not None:
            policy_of(topology, name).check()


def policy_documents(topology: Topology) -> Iterator[tuple[str, bytes, str]]:
    """The text of every policy and of the schema: a name, its bytes, their SHA-256 in hex.

    Names are ``policies/<class>.cedar`` and ``policies/schema.cedarschema``.
    """
    schema = Policy("schema", schema_text())
    if topology.residency:
        yield "policies/schema.cedarschema", schema.text.encode(), schema.sha256
    for name in sorted(topology.residency):
        policy = policy_of(topology, name)
        yield f"policies/{name}.cedar", policy.text.encode(), policy.sha256


def _quoted(text: str) -> str:
    """A string of Cedar: everything that is not a plain character is escaped."""
    plain = (c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text)
    return f'"{"".join(plain)}"'


def _read(folder: Path, relative: str, name: str) -> str:
    file = folder / relative
    where = f"residency.{name}.policy: {file}"
    try:
        inside = file.resolve(strict=True).is_relative_to(folder.resolve())
        data = b"" if not inside else _bytes(file, where)
    except OSError as error:
        raise ConfigError(
            "the policy cannot be read", where=where, expected="a readable file", found=str(error)
        ) from None
    if not inside:
        raise ConfigError(
            "the policy lies outside the topology's folder",
            where=where,
            expected=f"a file below {folder}",
            found=str(file.resolve()),
            fix="Put it beside the topology, so that both are reviewed and deployed together",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("the policy is no text", where=where, expected="UTF-8", found=str(error)) from None


def _bytes(file: Path, where: str) -> bytes:
    if not file.is_file():
        raise ConfigError("the policy is no file", where=where, expected="a regular file", found="something else")
    with file.open("rb") as opened:
        data = opened.read(MAX_POLICY_BYTES + 1)
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigError(
            "the policy is too large", where=where, expected=f"{MAX_POLICY_BYTES} bytes at most", found="more"
        )
    return data
