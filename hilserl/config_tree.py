"""Between JSON and dataclasses: check a tree of plain values against type hints, merge, build, encode.

A tree is what a JSON object gives: it may name any part of a dataclass. `null` in place of an entry of a
dictionary field removes that entry. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args, get_origin, get_type_hints

Tree = dict[str, Any]

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@functools.cache
def field_hints(cls: type) -> Mapping[str, Any]:
    """{field name: resolved type} of a dataclass, in order of declaration."""
    hints = get_type_hints(cls)
    return types.MappingProxyType({f.name: hints[f.name] for f in dataclasses.fields(cls)})


def in_words(hint: Any) -> str:  # noqa: ANN401  # a type hint has no better type
    """The type a hint stands for, for an error message."""
    if hint in _WORDS:
        return _WORDS[hint]
    args = get_args(hint)
    if get_origin(hint) is tuple:
        if args[-1] is Ellipsis:
            return f"a list, each entry {in_words(args[0])}"
        return f"a list of {len(args)}, each entry {in_words(args[0])}"
    if get_origin(hint) is dict:
        return f"an object whose values are {in_words(args[1])}"
    return "an object with " + ", ".join(field_hints(hint))


def shown(value: object) -> str:
    """A value as the user typed it, in JSON."""
    return json.dumps(value, default=str)


def dotted(path: str, key: str) -> str:
    """`key` below `path`: "policy" and "utd_ratio" give "policy.utd_ratio"."""
    return f"{path}.{key}" if path else key


def leaf_names(hint: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401
    """Dotted names of every leaf below a dataclass; entries of a dictionary appear as <name>."""
    if dataclasses.is_dataclass(hint):
        for name, inner in field_hints(cast(type, hint)).items():
            yield from leaf_names(inner, dotted(path, name))
    elif get_origin(hint) is dict:
        yield from leaf_names(get_args(hint)[1], dotted(path, "<name>"))
    else:
        yield path


class Checker:
    """Checks trees against a dataclass and collects every problem, each with the place it was found.

    source: the file's name, or "the command line".
    """

    def __init__(self, root: type, source: str) -> None:
        self._root = root
        self._source = source
        self.problems: list[str] = []

    def check(self, raw: object) -> Tree:
        """The tree with numbers in the field's type; whatever is wrong is added to `problems`."""
        return cast(Tree, self._value(raw, self._root, ""))

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self._source}: {text}")

    def _wrong(self, path: str, raw: object, hint: Any) -> object:  # noqa: ANN401
        self._problem(f"{path or 'the configuration'} is {shown(raw)}, expected {in_words(hint)}")
        return raw

    def _value(self, raw: object, hint: Any, path: str) -> object:  # noqa: ANN401
        if dataclasses.is_dataclass(hint):
            return self._dataclass(raw, cast(type, hint), path)
        if get_origin(hint) is dict:
            return self._dict(raw, hint, path)
        if get_origin(hint) is tuple:
            return self._tuple(raw, hint, path)
        if hint is float and type(raw) is int and abs(raw) < 2**53:
            raw = float(raw)
        # bool is an int to Python; to a person `true` is not 1
        if type(raw) is not hint or (isinstance(raw, float) and not math.isfinite(raw)):
            return self._wrong(path, raw, hint)
        return raw

    def _dataclass(self, raw: object, cls: type, path: str) -> object:
        if isinstance(raw, list):
            names = ", ".join(f'"{name}": ...' for name in field_hints(cls))
            self._problem(
                f"{path} is {shown(raw)}: a list does not say which number is which; name them: {{{names}}}"
            )
            return raw
        if not isinstance(raw, dict):
            return self._wrong(path, raw, cls)
        hints = field_hints(cls)
        for key in raw.keys() - hints.keys():
            self._problem(f'unknown key "{dotted(path, key)}"; {self._suggestion(key, cls, path)}')
        return {k: self._value(v, hints[k], dotted(path, k)) for k, v in raw.items() if k in hints}

    def _dict(self, raw: object, hint: Any, path: str) -> object:  # noqa: ANN401
        if not isinstance(raw, dict):
            return self._wrong(path, raw, hint)
        inner = get_args(hint)[1]
        return {k: None if v is None else self._value(v, inner, dotted(path, k)) for k, v in raw.items()}

    def _tuple(self, raw: object, hint: Any, path: str) -> object:  # noqa: ANN401
        inner = get_args(hint)
        open_ended = inner[-1] is Ellipsis
        if not isinstance(raw, list) or not (open_ended or len(raw) == len(inner)):
            return self._wrong(path, raw, hint)
        each = [inner[0]] * len(raw) if open_ended else list(inner)
        return [self._value(v, h, f"{path}[{i}]") for i, (v, h) in enumerate(zip(raw, each, strict=True))]

    def _suggestion(self, key: str, cls: type, path: str) -> str:
        here = list(field_hints(cls))
        near = [dotted(path, name) for name in difflib.get_close_matches(key, here, n=3, cutoff=0.7)]
        for name in leaf_names(self._root):
            likeness = difflib.SequenceMatcher(None, key, name.rpartition(".")[2]).ratio()
            if likeness > 0.85 and name not in near:
                near.append(name)
        if near:
            return "did you mean " + " or ".join(near[:4]) + "?"
        return "valid here: " + ", ".join(here)


def merge(below: Tree, above: Tree) -> Tree:
    """`above` laid over `below`, key by key; anything but an object replaces what was there."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, dict):
            merged[key] = merge(under if isinstance(under, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def build[T](tree: Tree, cls: type[T]) -> T:
    """The dataclass a checked tree stands for; what the tree does not name keeps its default."""
    return cast(T, _build(tree, cls))


def _build(raw: Any, hint: Any) -> object:  # noqa: ANN401
    if dataclasses.is_dataclass(hint):
        cls = cast(type, hint)
        return cls(**{key: _build(value, field_hints(cls)[key]) for key, value in raw.items()})
    if get_origin(hint) is dict:
        # sorted, so that no meaning can hide in the order of keys
        return {key: _build(raw[key], get_args(hint)[1]) for key in sorted(raw) if raw[key] is not None}
    return tuple(raw) if get_origin(hint) is tuple else raw


def encode(value: Any, hint: Any) -> Any:  # noqa: ANN401
    """Plain JSON values of a dataclass (or a part of one), the inverse of `build`."""
    if dataclasses.is_dataclass(hint):
        return {name: encode(getattr(value, name), h) for name, h in field_hints(cast(type, hint)).items()}
    if get_origin(hint) is dict:
        return {key: encode(value[key], get_args(hint)[1]) for key in sorted(value)}
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        each = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return [encode(v, h) for v, h in zip(value, each, strict=True)]
    # one spelling per number: 10 is 10.0, and -0.0 is 0.0
    return float(value) + 0.0 if hint is float else value


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{dotted name: value}; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, dotted(path, key))
        else:
            flat[dotted(path, key)] = value
    return flat
