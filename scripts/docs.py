"""``make docs``: write the generated pages of docs/ and check that every relative link leads somewhere.

``--check`` writes nothing and fails when a page is not what the code would write today.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.engine.config import Topology

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: The package needs them to compare with, so they live there.
POLICIES = ROOT / "plugins" / "holdfast" / "engine" / "audit" / "posture" / "policies"
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    stale = [path for path, text in generated() if not same(path, text)]
    for path, text in () if check else generated():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    broken = list(broken_links())
    for line in broken:
        print(f"broken link: {line}")
    if check:
        for path in stale:
            print(f"not up to date: {path.relative_to(ROOT)}; run `make docs`")
    else:
        print(f"docs: {len(stale)} pages written, {len(broken)} broken links")
    return 1 if broken or (check and stale) else 0


def generated() -> Iterator[tuple[Path, str]]:
    """Each generated page and its text."""
    schema = Topology.model_json_schema()
    yield DOCS / "reference" / "topology.schema.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    yield DOCS / "reference" / "topology.md", topology_page(schema)
    for policy in sorted(POLICIES.glob("*/*.json")):
        yield DOCS / "security" / "policies" / policy.relative_to(POLICIES), policy.read_text(encoding="utf-8")


def same(path: Path, text: str) -> bool:
    """True when the file already holds this text."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def topology_page(schema: dict[str, Any]) -> str:
    """The reference of the topology file, from its JSON Schema."""
    lines = [
        "# The topology file",
        "",
        "<!-- Written by `make docs` from holdfast.engine.config.models. Do not edit. -->",
        "",
        "One YAML file says what Holdfast knows of its world: `$HOLDFAST_TOPOLOGY`, by default",
        "`include/holdfast.yaml`. `${NAME}` and `${NAME:-default}` come from the environment. Names are lower-case",
        "letters, digits and dashes. `holdfast check --offline` validates it. The same as JSON Schema:",
        "[topology.schema.json](topology.schema.json).",
        "",
    ]
    for name, model in {"Topology": schema, **schema["$defs"]}.items():
        if "properties" in model:
            lines += section(name, model)
    return "\n".join(lines).rstrip() + "\n"


def section(name: str, model: dict[str, Any]) -> list[str]:
    """One model as a table."""
    summary = (model.get("description") or "").split("\n\n")[0]
    required = set(model.get("required", ()))
    rows = [
        f"| `{field}` | {kind(spec)} | {default(field, spec, required)} | {spec.get('description', '')} |"
        for field, spec in model["properties"].items()
    ]
    return [f"## {name}", "", summary, "", "| field | type | default | meaning |", "|---|---|---|---|", *rows, ""]


def kind(spec: dict[str, Any]) -> str:
    """A field's type in words."""
    if "$ref" in spec:
        return spec["$ref"].rsplit("/", 1)[1]
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    if parts := spec.get("anyOf") or spec.get("oneOf"):
        return " or ".join(kind(part) for part in parts if part.get("type") != "null")
    if spec.get("type") == "array":
        return f"list of {kind(spec.get('items', {})) or 'values'}"
    if spec.get("type") == "object":
        values = spec.get("additionalProperties")
        values = values if isinstance(values, dict) else next(iter(spec.get("patternProperties", {}).values()), {})
        return f"name → {kind(values)}"
    return spec.get("type", "")


def default(field: str, spec: dict[str, Any], required: set[str]) -> str:
    """A field's default, or that it has none."""
    if field in required:
        return "required"
    value = spec.get("default")
    return "" if value is None or value in ({}, []) else f"`{json.dumps(value, ensure_ascii=False)}`"


def broken_links() -> Iterator[str]:
    """Every relative link in the Markdown of this repository that leads nowhere."""
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "changelog").rglob("*.md")]
    for page in sorted(pages):
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)} -> {target}"


if __name__ == "__main__":
    sys.exit(main())
