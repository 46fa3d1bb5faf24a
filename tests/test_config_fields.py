"""Every field of the configuration is read by some module: a value nobody reads is a lie to the user."""

import ast
import dataclasses
import functools
import inspect
from pathlib import Path

import pytest

from hilserl import config

ROOT = Path(__file__).resolve().parent.parent
OWN = {
    "config.py",
    "config_tree.py",
    "config_loading.py",
    "config_checks.py",
    "config_ranges.py",
    "cli.py",
    "lift.py",
}
CLASSES = [c for _, c in inspect.getmembers(config, dataclasses.is_dataclass) if inspect.isclass(c)]
FIELDS = [(c.__name__, f.name) for c in CLASSES for f in dataclasses.fields(c)]


@functools.cache
def read_names() -> set[str]:
    """Names of attributes read from anything but `self`, and those of class patterns."""
    names: set[str] = set()
    for package in ("hilserl", "robot", "scripts"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name in OWN or "_proto" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    owner = node.value.id if isinstance(node.value, ast.Name) else ""
                    if owner not in ("self", "cls"):
                        names.add(node.attr)
                elif isinstance(node, ast.MatchClass):
                    names |= set(node.kwd_attrs)
    return names


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{c}.{f}" for c, f in FIELDS])
def test_some_module_reads_it(section, field):
    assert field in read_names(), (
        f"nothing outside the configuration reads {section}.{field}: read it or remove it"
    )
