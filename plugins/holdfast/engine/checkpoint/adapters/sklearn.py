"""scikit-learn estimators that learn by ``partial_fit``, without pickle.

scikit-learn's own ways to save are pickle and joblib, and both run code of the file on load. So this adapter takes the
attributes of estimators that it knows, as JSON and arrays (see `nested`), and puts them into an estimator that the
user's own code made: `TAKEN` is the whole list, by exact class.

Not taken are the ensembles of trees (forests, boosting): a tree's nodes live in a C structure which scikit-learn
rebuilds through pickle's protocol alone, without checking that child indices stay within the tree, so a crafted file
would read foreign memory. `adapters.xgboost` and `adapters.lightgbm` carry trees whose formats are made to be read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from holdfast.engine.checkpoint.adapters.nested import Decoder, Encoder
from holdfast.engine.checkpoint.adapters.plain import from_state, to_json, to_state
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.errors import ConfigError

#: The estimators this adapter takes, by the module they are imported from.
TAKEN = {
    "sklearn.linear_model": ("SGDClassifier", "SGDRegressor", "SGDOneClassSVM", "Perceptron"),
    "sklearn.neural_network": ("MLPClassifier", "MLPRegressor", "BernoulliRBM"),
    "sklearn.cluster": ("MiniBatchKMeans",),
    "sklearn.naive_bayes": ("GaussianNB", "BernoulliNB", "MultinomialNB", "ComplementNB"),
    "sklearn.decomposition": ("IncrementalPCA",),
    "sklearn.preprocessing": ("StandardScaler", "MinMaxScaler", "MaxAbsScaler"),
}
#: What is inside of those, and made of plain attributes too.
_INNER = {
    "sklearn.preprocessing": ("LabelBinarizer",),
    "sklearn.neural_network._stochastic_optimizers": ("AdamOptimizer", "SGDOptimizer"),
}
#: C objects that scikit-learn makes anew from the parameters at each partial_fit.
_MADE_ANEW = frozenset({"_loss_function_"})


class SklearnAdapter:
    """Estimators that learn by ``partial_fit``, e.g. a scaler and a classifier.

    Args:
        estimators: one, or several by name. What they are made with is the trainer's code; a checkpoint only resumes
            into estimators of the same parameters. ``random_state`` must be an integer or a ``RandomState``.

    Raises:
        ConfigError: an estimator that is not in `TAKEN`, or one that draws from NumPy's global generator.
    """

    def __init__(self, estimators: Any) -> None:
        self.estimators: dict[str, Any] = dict(estimators) if isinstance(estimators, Mapping) else {"model": estimators}
        for name, estimator in self.estimators.items():
            _check(name, estimator)
            _parameters(name, estimator)

    def state(self) -> TrainingState:
        """A copy of what they have learned. Raises CheckpointError: an attribute that would need pickle."""
        encoder = Encoder(_classes(_INNER))
        rest = {
            "version": _version(),
            "estimators": {
                name: {
                    "class": type(estimator).__name__,
                    "parameters": _parameters(name, estimator),
                    "attributes": {
                        key: encoder.encode(value, f"{name}/{key}")
                        # What is learned first: an array that is also kept under a private name counts as learned.
                        for key, value in sorted(vars(estimator).items(), key=lambda one: (one[0][:1] == "_", one[0]))
                        if key not in _MADE_ANEW and not _is_parameter(estimator, key)
                    },
                }
                for name, estimator in self.estimators.items()
            },
        }
        return to_state(rest, encoder, _is_learned, fingerprint=fingerprint())

    def load_state(self, state: TrainingState) -> None:
        """Go on exactly there; nothing is changed when it raises.

        Raises:
            CheckpointError: other estimators or parameters, or another version of scikit-learn, whose attributes may
                mean something else.
            CheckpointUnreadable: damaged, or with something in it that this adapter does not write.
        """
        rest, arrays = from_state(state, where="SklearnAdapter")
        try:
            version, saved = rest["version"], dict(rest["estimators"])
            found = {name: (one["class"], one["parameters"]) for name, one in saved.items()}
            attributes = {name: dict(one["attributes"]) for name, one in saved.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointUnreadable(
                "the checkpoint holds no estimators", where="SklearnAdapter", found=str(error)
            ) from None
        ours = {name: (type(one).__name__, _parameters(name, one)) for name, one in self.estimators.items()}
        for what, expected, have in (("scikit-learn", _version(), version), ("estimators", ours, found)):
            if to_json(expected) != to_json(have):
                raise CheckpointError(
                    f"the checkpoint was made with other {what}",
                    where="SklearnAdapter.load_state",
                    expected=str(expected),
                    found=str(have),
                    fix="Resume with what the run began with",
                )
        decoder = Decoder(arrays, _classes(_INNER))
        decoded = {name: decoder.decode(one) for name, one in attributes.items()}
        for name, estimator in self.estimators.items():
            kept = {key: value for key, value in vars(estimator).items() if _is_parameter(estimator, key)}
            vars(estimator).clear()
            vars(estimator).update({**decoded[name], **kept})


def fingerprint() -> dict[str, str]:
    """What of scikit-learn and its libraries the numbers depend on."""
    pools = importlib.import_module("threadpoolctl").threadpool_info()
    versions = {name: importlib.import_module(name).__version__ for name in ("sklearn", "numpy", "scipy")}
    said = {
        " ".join(str(pool.get(key)) for key in ("internal_api", "version", "architecture", "num_threads"))
        for pool in pools
    }
    return {**versions, "threadpools": "; ".join(sorted(said))}


def _version() -> str:
    return ".".join(importlib.import_module("sklearn").__version__.split(".")[:2])


def _classes(listed: Mapping[str, tuple[str, ...]]) -> dict[str, type]:
    return {name: getattr(importlib.import_module(module), name) for module, names in listed.items() for name in names}


def _check(name: str, estimator: Any) -> None:
    if type(estimator) not in _classes(TAKEN).values():
        trees = any(word in type(estimator).__name__ for word in ("Forest", "Trees", "Boosting", "Tree", "Bagging"))
        raise ConfigError(
            "this estimator cannot be saved and loaded without pickle",
            where=f"SklearnAdapter: {name}",
            expected=", ".join(sorted(name for names in TAKEN.values() for name in names)),
            found=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
            fix="Trees are rebuilt from unchecked C structures only: use the xgboost or the lightgbm adapter"
            if trees
            else "Give its state as JSON and arrays through the plain adapter",
        )
    import numpy as np

    state = getattr(estimator, "random_state", 0)
    if not isinstance(state, int | np.integer | np.random.RandomState):
        raise ConfigError(
            "this estimator draws from NumPy's global generator, so a resume would differ",
            where=f"SklearnAdapter: {name}",
            expected="random_state=<integer>",
            found=f"random_state={state!r}",
        )


def _is_parameter(estimator: Any, key: str) -> bool:
    """A generator that was given is state, though it is given as a parameter."""
    return key in estimator.get_params(deep=False) and not hasattr(getattr(estimator, key), "get_state")


def _parameters(name: str, estimator: Any) -> dict[str, Any]:
    encoder = Encoder()
    encoded = {
        key: encoder.encode(value, f"{name}/{key}")
        for key, value in sorted(estimator.get_params(deep=False).items())
        if _is_parameter(estimator, key)
    }
    return {**encoded, "$arrays": {key: array.tolist() for key, array in encoder.arrays.items()}}


def _is_learned(path: str) -> bool:
    """scikit-learn's own custom: what is learned ends, and does not begin, with an underscore."""
    attribute = path.split("/")[1]
    return attribute.endswith("_") and not attribute.startswith("_")
