"""Imported by the process that every training process of the suite is forked from: what takes seconds, once.

Nothing here may start a thread or touch a store, because neither lives on in a forked process.
"""

from __future__ import annotations

import importlib

from engine.checkpoint import resume_worker
from holdfast.engine import training  # noqa: F401
from holdfast.engine.authority.register import RankedRegister  # noqa: F401

resume_worker.make("sgd-classifier")
for name in ("xgboost", "lightgbm", "holdfast.engine.objectstore.parts.s3"):
    importlib.import_module(name)
