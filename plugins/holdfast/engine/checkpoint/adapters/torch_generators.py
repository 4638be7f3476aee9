"""Every random generator a PyTorch trainer draws from: torch's own, Python's, NumPy's, as tensors and JSON."""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from typing import Any

_NUMPY_SEEDS = 2**32


def torch_states(own: Mapping[str, Any], *, every_device: bool = True) -> dict[str, Any]:
    """The states of torch's generators as tensors.

    Args:
        own: further ``torch.Generator`` objects by name.
        every_device: of all CUDA devices; False: of the current one, where each rank has its own.
    """
    torch = importlib.import_module("torch")
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = torch.cuda.get_rng_state_all() if every_device else [torch.cuda.get_rng_state()]
        states |= {f"cuda.{index}": one for index, one in enumerate(devices)}
    return states | {f"own.{name}": generator.get_state() for name, generator in own.items()}


def set_torch_states(states: Mapping[str, Any], own: Mapping[str, Any], *, every_device: bool = True) -> None:
    """Set what `torch_states` gave."""
    torch = importlib.import_module("torch")
    for name, generator in own.items():
        generator.set_state(states[f"own.{name}"])
    cuda = [states[f"cuda.{index}"] for index in range(sum(name.startswith("cuda.") for name in states))]
    if cuda and torch.cuda.is_available():
        if every_device:
            torch.cuda.set_rng_state_all(cuda)
        else:
            torch.cuda.set_rng_state(cuda[0])
    torch.set_rng_state(states["cpu"])


def other_states() -> dict[str, Any]:
    """Python's and NumPy's global generators, as JSON."""
    return {"python": random.getstate(), "numpy": _numpy_state()}


def set_other_states(states: Mapping[str, Any]) -> None:
    """Set what `other_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    _set_numpy_state(states["numpy"])


def seed_all(key: int, own: Mapping[str, Any]) -> None:
    """Begin every generator anew from a key of 128 bits; ``own`` ones each with a seed of its own, by their order."""
    torch = importlib.import_module("torch")
    torch.manual_seed(key % 2**63)
    for number, name in enumerate(sorted(own), start=1):
        own[name].manual_seed((key + number) % 2**63)
    random.seed(key)
    try:
        import numpy as np
    except ImportError:
        return
    np.random.seed(key % _NUMPY_SEEDS)


def _numpy_state() -> list[Any] | None:
    try:
        import numpy as np
    except ImportError:
        return None
    name, keys, position, has_gauss, cached = np.random.get_state()
    return [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]


def _set_numpy_state(state: list[Any] | None) -> None:
    if state is not None:
        import numpy as np

        name, keys, position, has_gauss, cached = state
        np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
