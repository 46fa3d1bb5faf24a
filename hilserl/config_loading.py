"""From JSON files and dotted overrides to a Config, and back.

A file says only what differs from its `base` (a path relative to the file), or from the defaults. An object
merges with the base's by key; a dictionary field (cameras, crops) that a file names replaces the default's;
`null` in place of an entry removes it. The command line is laid over the result.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, get_args, get_origin

from hilserl.config import Config, ConfigError
from hilserl.config_checks import find_problems, personal_paths
from hilserl.config_tree import Checker, Tree, build, encode, field_hints, flatten, merge, shown

COMMAND_LINE = "the command line"


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The effective configuration: defaults, then the file and its bases, then the overrides; checked.

    overrides: `--policy.utd_ratio=4` or `--policy.utd_ratio`, `4`. Raises ConfigError listing every problem.
    """
    config, files, typed = _read(path, overrides)
    problems = find_problems(config)
    # a run's own record below its output folder may hold the paths of the machine it ran on
    if path and not Path(path).resolve().is_relative_to(Path(config.output_dir).resolve()):
        problems += personal_paths(files, overridden=flatten(typed).keys())
    if problems:
        raise ConfigError(_listed(problems, str(path) if path else "the configuration"))
    return config


def read_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """`load_config` without the checks of meaning: keys and types only."""
    return _read(path, overrides)[0]


def config_from_json(text: str, source: str) -> Config:
    """A Config stored by `to_json` (in a run folder, in a checkpoint). source: what to call it in errors."""
    checker = Checker(Config, source)
    tree = checker.check(_parse(text, source))
    _raise_if(checker.problems, source)
    return build(tree, Config)


def to_json(config: Config) -> str:
    """The whole configuration, every field named. `config_from_json` gives back an equal Config."""
    return json.dumps(encode(config, Config), indent=2) + "\n"


def save(config: Config, path: Path) -> None:
    """Write `to_json` to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(to_json(config), encoding="utf-8")
    temporary.replace(path)


def config_differences(ours: Config, theirs: Config) -> list[tuple[str, str, str]]:
    """(dotted name, our value, their value) wherever two configurations differ, values as JSON."""
    a, b = (flatten(encode(config, Config)) for config in (ours, theirs))
    absent = object()
    names = [*a, *(name for name in b if name not in a)]
    return [
        (name, _or_absent(a.get(name, absent), absent), _or_absent(b.get(name, absent), absent))
        for name in names
        if a.get(name, absent) != b.get(name, absent)
    ]


def describe(config: Config) -> str:
    """The short form of the effective configuration: one line per value that is not the default."""
    lines = [
        f"  {name} = {value}   (default {default})"
        for name, value, default in config_differences(config, Config())
    ]
    return "\n".join(lines) if lines else "  every value is the default"


def _or_absent(value: object, absent: object) -> str:
    return "absent" if value is absent else shown(value)


def _read(path: str | Path | None, overrides: Sequence[str]) -> tuple[Config, Tree, Tree]:
    problems: list[str] = []
    files: Tree = {}
    for source, raw in _layers(Path(path), ()) if path else []:
        checker = Checker(Config, source)
        files = merge(files, checker.check(raw))
        problems += checker.problems
    checker = Checker(Config, COMMAND_LINE)
    typed = checker.check(_override_tree(overrides, checker.problems))
    _raise_if(problems + checker.problems, str(path) if path else COMMAND_LINE)
    below = encode(build(files, Config), Config)
    return build(merge(below, typed), Config), files, typed


def _layers(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, Tree]]:
    """(file name, its content without `base`) from the outermost base to the file itself."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ConfigError(f'{seen[-1].name}: "base" leads back to where it began: {chain}')
    raw = _parse(_read_text(path), str(path))
    base = raw.pop("base", None)
    if base is None:
        return [(str(path), raw)]
    if not isinstance(base, str):
        raise ConfigError(
            f'{path}: "base" is {shown(base)}, expected the path of a file, relative to this one'
        )
    below = path.parent / base
    if not below.is_file():
        raise ConfigError(f'{path}: "base" names {shown(base)}, but there is no file {below}')
    return [*_layers(below, (*seen, resolved)), (str(path), raw)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(p.name for p in path.parent.glob("*.json"))
        near = difflib.get_close_matches(path.name, known, n=3, cutoff=0.4) or known[:8]
        there = f"{path.parent} holds {', '.join(near)}" if near else f"{path.parent} holds no .json file"
        raise ConfigError(f"there is no configuration file {path}; {there}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration: {error}") from None


def _parse(text: str, source: str) -> Tree:
    try:
        raw = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except _BadJson as error:
        raise ConfigError(f"{source}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} must hold one JSON object, got {shown(raw)[:60]}")
    return raw


class _BadJson(ValueError):
    """JSON that Python accepts and a configuration does not."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Tree:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise _BadJson(f"key given twice: {', '.join(twice)}")
    return tree


def _no_constant(name: str) -> NoReturn:
    raise _BadJson(f"{name} is not a number a configuration may hold")


def _override_tree(overrides: Sequence[str], problems: list[str]) -> Tree:
    tree: Tree = {}
    waiting = list(overrides)
    while waiting:
        word = waiting.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            problems.append(f"{COMMAND_LINE}: {word!r} is not an override; write --section.key=value")
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                problems.append(f"{COMMAND_LINE}: --{name} needs a value: --{name}=VALUE")
                continue
            text = waiting.pop(0)
        keys = name.split(".")
        entry = get_origin(_hint_of(keys[:-1])) is dict
        value = None if entry and text == "null" else _from_text(text, _hint_of(keys))
        for key in reversed(keys):
            value = {key: value}
        tree = merge(tree, cast(Tree, value))
    return tree


def _hint_of(keys: list[str]) -> Any:  # noqa: ANN401  # a type hint has no better type
    """Type of the field at a dotted path; None where there is none (the checker will say so)."""
    hint: Any = Config
    for key in keys:
        if dataclasses.is_dataclass(hint):
            hint = field_hints(cast(type, hint)).get(key)
        else:
            hint = get_args(hint)[1] if get_origin(hint) is dict else None
    return hint


def _from_text(text: str, hint: Any) -> Any:  # noqa: ANN401
    """What a word on the command line means for a field of this type; JSON first, then as people type it."""
    if hint is str and not text.startswith('"'):
        return text
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except ValueError:
        value = text
    if get_origin(hint) is tuple and not isinstance(value, list) and not text.startswith("["):
        return [_from_text(part.strip(), get_args(hint)[0]) for part in text.split(",") if part.strip()]
    return value


def _raise_if(problems: list[str], source: str) -> None:
    if problems:
        raise ConfigError(_listed(problems, source))


def _listed(problems: list[str], source: str) -> str:
    if len(problems) == 1:
        return problems[0] if source in problems[0] else f"{source}: {problems[0]}"
    return f"{source}: {len(problems)} problems\n" + "\n".join(f"  - {problem}" for problem in problems)
