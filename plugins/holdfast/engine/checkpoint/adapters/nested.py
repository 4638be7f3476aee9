"""Nested Python values as JSON and arrays, and back: what the plain and the scikit-learn adapters are made of.

Taken are None, booleans, integers of any size, floats (each bit), text, bytes, lists, tuples, dicts, NumPy arrays and
scalars, arrays of text, NumPy's RandomState, and objects of classes that the caller lists. Nothing else: a value that
is none of these is refused when it is saved, and a document that names anything else when it is loaded. An array or
a RandomState that stands in two places is one again afterwards.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint.adapters.array_blob import is_plain
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEEPEST = 100


class Encoder:
    """Turns values into JSON; `arrays` fills with what the JSON names.

    Args:
        classes: name -> class whose attributes may be taken. Exactly this class, not one derived from it.
    """

    def __init__(self, classes: Mapping[str, type] | None = None) -> None:
        self._names = {one: name for name, one in (classes or {}).items()}
        # With the array itself, because the number of one that is gone is given to another.
        self._seen: dict[int, tuple[str, NDArray[Any]]] = {}
        self._states: dict[int, tuple[int, Any]] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def encode(self, value: Any, path: str) -> Any:
        """The value as JSON. ``path`` names it in errors and names its arrays. Raises CheckpointError."""
        if path.count("/") > _DEEPEST:
            raise _refused(path, "a nesting deeper than 100, or a value that contains itself")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if type(value) in (list, tuple):
            items = [self.encode(one, f"{path}/{number}") for number, one in enumerate(value)]
            return items if type(value) is list else {"$tuple": items}
        if isinstance(value, bytes | bytearray):
            return {"$bytes": base64.b64encode(bytes(value)).decode()}
        return self._special(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.encode(one, f"{path}/{key}") for key, one in value.items()}
        pairs = [[self.encode(key, f"{path}/key"), self.encode(one, f"{path}/{key}")] for key, one in value.items()]
        return {"$map": pairs}

    def _special(self, value: Any, path: str) -> Any:
        import numpy as np

        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if isinstance(value, np.generic) and is_plain(np.asarray(value)):
            return {"$scalar": self._keep(np.asarray(value), path)}
        if isinstance(value, np.str_):
            return str(value)
        if type(value) is np.random.RandomState:
            return self._random_state(value, path)
        if type(value) in self._names:
            return {"$object": self._names[type(value)], "attributes": self.encode(vars(value), path)}
        raise _refused(path, f"{type(value).__module__}.{type(value).__qualname__}")

    def _array(self, value: NDArray[Any], path: str) -> Any:
        if value.dtype.kind in "UO" and all(type(one) is str for one in value.ravel().tolist()):
            kind = "O" if value.dtype.kind == "O" else value.dtype.str.lstrip("<>=|")
            return {"$text": value.ravel().tolist(), "shape": list(value.shape), "dtype": kind}
        if not is_plain(value) or type(value).__name__ != "ndarray":
            raise _refused(path, f"an array of {value.dtype} ({type(value).__name__})")
        if id(value) in self._seen:
            return {"$array": self._seen[id(value)][0]}
        # The layout in memory decides in which order a BLAS adds: it is kept.
        columns = value.flags.f_contiguous and not value.flags.c_contiguous
        name = self._keep(value.T if columns else value, path)
        self._seen[id(value)] = (name, value)
        return {"$array": name, "$columns": True} if columns else {"$array": name}

    def _random_state(self, value: Any, path: str) -> Any:
        if id(value) in self._states:
            return {"$mt19937": self._states[id(value)][0]}
        name, keys, position, has_gauss, cached = value.get_state(legacy=True)
        if name != "MT19937":
            raise _refused(path, f"a RandomState of {name}")
        number = len(self._states)
        self._states[id(value)] = (number, value)
        return {"$mt19937": number, "state": [keys.tolist(), int(position), int(has_gauss), float(cached)]}

    def _keep(self, array: NDArray[Any], path: str) -> str:
        while path in self.arrays:  # a name with a stroke in it
            path += "'"
        self.arrays[path] = array.copy()
        return path


class Decoder:
    """Turns the JSON of an `Encoder` and its arrays into values. Raises CheckpointUnreadable for anything else."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], classes: Mapping[str, type] | None = None) -> None:
        self._arrays = dict(arrays)
        self._columns: dict[str, NDArray[Any]] = {}
        self._states: dict[int, Any] = {}
        self._classes = dict(classes or {})
        self._kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "$tuple": lambda one: tuple(self.decode(item) for item in one["$tuple"]),
            "$map": lambda one: {self.decode(key): self.decode(value) for key, value in one["$map"]},
            "$bytes": lambda one: base64.b64decode(one["$bytes"], validate=True),
            "$array": self._array,
            "$scalar": lambda one: self._arrays[one["$scalar"]].reshape(())[()],
            "$text": _text,
            "$mt19937": self._random_state,
            "$object": self._object,
        }

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        kind = next((key for key in value if key.startswith("$") and key != "$columns"), None)
        if kind is None:
            return {key: self.decode(one) for key, one in value.items()}
        if kind not in self._kinds:
            raise _damaged(f"one of {', '.join(self._kinds)}", kind)
        try:
            return self._kinds[kind](value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _damaged(f"a value of kind {kind}", str(error)) from None

    def _array(self, one: dict[str, Any]) -> Any:
        name = one["$array"]
        # The layout stands where the array is met first.
        if one.get("$columns"):
            self._columns.setdefault(name, self._arrays[name].T)
        return self._columns.get(name, self._arrays[name])

    def _random_state(self, one: dict[str, Any]) -> Any:
        import numpy as np

        number = one["$mt19937"]
        if "state" in one:
            keys, position, has_gauss, cached = one["state"]
            made = self._states[number] = np.random.RandomState(0)
            made.set_state(("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
        return self._states[number]

    def _object(self, one: dict[str, Any]) -> Any:
        name = one["$object"]
        if name not in self._classes:
            raise _damaged(f"an object of {', '.join(self._classes) or 'no class'}", str(name))
        made: Any = object.__new__(self._classes[name])
        vars(made).update(self.decode(one["attributes"]))
        return made


def _text(one: dict[str, Any]) -> Any:
    import numpy as np

    words, dtype = one["$text"], str(one["dtype"])
    if not all(isinstance(word, str) for word in words) or not (dtype == "O" or dtype[:1] == "U"):
        raise ValueError("expected text")
    return np.array(words, dtype=object if dtype == "O" else dtype).reshape(tuple(one["shape"]))


def _refused(path: str, found: str) -> CheckpointError:
    return CheckpointError(
        "a part of the training state cannot be saved without pickle",
        where=path,
        expected="JSON values, bytes, NumPy arrays of numbers or text",
        found=found,
        fix="Keep what is needed to make it anew (numbers, text, arrays) in the state instead",
    )


def _damaged(expected: str, found: str) -> CheckpointUnreadable:
    return CheckpointUnreadable(
        "the checkpoint holds what this version does not load", where="rest.json", expected=expected, found=found
    )
