"""Capability measurements as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.engine.objectstore.probe import Measurement

_WORDS = {True: "yes", False: "no", None: "unknown"}


def markdown(columns: Mapping[str, Sequence[Measurement]]) -> str:
    """One row per capability, one column per backend.

    Args:
        columns: measurements by the backend's heading; all of the same probes.
    """
    headings = ["what was tried", *columns]
    rows = [
        [measurements[0].title, *(_WORDS[m.works] for m in measurements)]
        for measurements in zip(*columns.values(), strict=True)
    ]
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return (
        "\n".join(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )
        + "\n"
    )
