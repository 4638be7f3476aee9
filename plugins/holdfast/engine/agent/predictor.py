"""What turns the files of a published model into answers: one small protocol, a registry by the model's file name."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from holdfast.errors import HoldfastError

FEATURES_FILE = "features.json"
_IMPORTING = threading.Lock()


class ModelUnusable(HoldfastError):
    """The snapshot holds no model this version can load."""


class BadInstances(HoldfastError):
    """The instances of a request do not fit the model."""


class Predictor(Protocol):
    """A loaded model. Safe to call from many threads."""

    @property
    def features(self) -> int | None:
        """Numbers per instance; ``None`` when the model does not say."""

    def predict(self, instances: Sequence[Sequence[float]]) -> list[float]:
        """One answer per instance; ``instances`` has shape (n, features)."""


#: Makes a predictor of a snapshot's files, all of them in memory.
Loader = Callable[[Mapping[str, bytes]], Predictor]


class XGBoostPredictor:
    """A gradient-boosted tree model from its own binary form (``model.ubj``)."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        if not (files["model.ubj"].startswith(b"{") and files["model.ubj"].endswith(b"}")):
            # xgboost would abort the process on some bytes that are no model; UBJSON objects begin and end like this.
            raise ModelUnusable(
                "the model cannot be loaded",
                where="model.ubj",
                expected="an XGBoost model (UBJSON)",
                found=f"{len(files['model.ubj'])} other bytes",
            )
        xgboost = import_xgboost()
        self._booster = xgboost.Booster()
        try:
            self._booster.load_model(bytearray(files["model.ubj"]))
        except xgboost.core.XGBoostError as error:
            raise ModelUnusable(
                "the model cannot be loaded",
                where="model.ubj",
                expected="an XGBoost model",
                found=str(error).strip().splitlines()[0],
            ) from None
        self._names = feature_names(files)

    @property
    def features(self) -> int | None:
        return len(self._names) if self._names is not None else int(self._booster.num_features())

    def predict(self, instances: Sequence[Sequence[float]]) -> list[float]:
        import numpy as np

        names = self._names if self._booster.feature_names is not None else None
        rows = import_xgboost().DMatrix(np.asarray(instances, dtype=np.float64), feature_names=names)
        return [float(value) for value in self._booster.predict(rows)]


def import_xgboost() -> Any:
    """xgboost without scikit-learn, which it takes when it is there and scoring a booster never needs.

    That is 1.4 s of processor time instead of 6 (measured), in every agent, while a site waits to be promoted.
    """
    with _IMPORTING:
        if "xgboost" in sys.modules or "sklearn" in sys.modules:
            return importlib.import_module("xgboost")
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # Python's way to say: this import fails
        try:
            return importlib.import_module("xgboost")
        finally:
            del sys.modules["sklearn"]


def feature_names(files: Mapping[str, bytes]) -> list[str] | None:
    """The names in ``features.json``, in the order of an instance; ``None`` without that file. Raises ModelUnusable."""
    if FEATURES_FILE not in files:
        return None
    try:
        document: Any = json.loads(files[FEATURES_FILE])
    except ValueError as error:
        document = error
    names = document.get("features") if isinstance(document, dict) else document
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelUnusable(
            "the feature names cannot be read",
            where=FEATURES_FILE,
            expected='a list of names, or {"features": [names]}',
            found=repr(document)[:80],
        )
    return names


LOADERS: dict[str, Loader] = {"model.ubj": XGBoostPredictor}


def load_predictor(files: Mapping[str, bytes], loaders: Mapping[str, Loader] = LOADERS) -> Predictor:
    """The predictor for these files. Raises ModelUnusable when none of them is known."""
    for name, loader in loaders.items():
        if name in files:
            return loader(files)
    raise ModelUnusable(
        "the snapshot holds no model that can be served",
        expected=f"one of {', '.join(loaders)}",
        found=", ".join(sorted(files)) or "no files",
    )
