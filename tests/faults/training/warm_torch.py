"""As `warm`, for PyTorch, which takes longest."""

from __future__ import annotations

from faults.training import loops

loops.make("torch", 0)
