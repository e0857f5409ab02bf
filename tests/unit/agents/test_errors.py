"""The errors are grouped by what the operator does about them, and drawn at the top of their modules as they are."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

import agents.errors
import oracle.errors


def classes_of(module: ModuleType) -> dict[str, str]:
    """Name of each error and of the class it comes from."""
    found = inspect.getmembers(module, lambda m: inspect.isclass(m) and m.__module__ == module.__name__)
    return {name: cls.__mro__[1].__name__ for name, cls in found}


def drawn_in(module: ModuleType) -> dict[str, str]:
    """The same as the tree in the docstring has it."""
    found, path = {}, ["Exception"]
    for line in (module.__doc__ or "").splitlines():
        if match := re.match(r"((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)(?:   |  |$)", line):
            depth = len(match[1]) // 4
            path[depth + 1 :] = [match[2]]
            found[match[2]] = path[depth]
    return found


@pytest.mark.parametrize("module", [agents.errors, oracle.errors], ids=lambda module: module.__name__)
def test_the_tree_that_is_drawn_is_the_tree_that_is(module: ModuleType) -> None:
    assert drawn_in(module) == classes_of(module)


@pytest.mark.parametrize("module", [agents.errors, oracle.errors], ids=lambda module: module.__name__)
def test_every_error_says_what_it_means(module: ModuleType) -> None:
    assert all(inspect.getdoc(getattr(module, name)) for name in classes_of(module))
