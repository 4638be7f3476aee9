"""What the how-to on training says to write into a topology."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "train.md"


def as_the_manual_says(topology: dict[str, Any]) -> None:
    """Change the topology by the snippet of the how-to."""
    (snippet,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, settings in yaml.safe_load(snippet)["groups"].items():
        topology["groups"][name] |= settings
