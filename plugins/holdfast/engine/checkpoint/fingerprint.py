"""What of an environment the numbers depend on. Equal fingerprints are the condition for claiming a bitwise resume."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

#: Instruction sets that numeric libraries choose kernels by.
_ISA = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "amx_tile", "asimd", "sve")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY")


def environment_fingerprint(libraries: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Machine, instruction sets, Python, thread settings and the versions of ``libraries`` (distribution names)."""
    facts = {
        "machine": platform.machine(),
        "isa": " ".join(_instruction_sets()),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
    }
    facts |= {name.lower(): environ[name] for name in _THREADS if name in environ}
    for library in libraries:
        try:
            facts[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            facts[library] = "absent"
    return facts


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Where two fingerprints differ, each as ``name: one -> other``. Empty: a bitwise resume may be claimed."""
    return tuple(
        f"{name}: {one.get(name, '(none)')} -> {other.get(name, '(none)')}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    )


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(value.split())
            return [isa for isa in _ISA if isa in present]
    return []
