"""Is what decides still what its source files say?  A conftest.py can set any constant and replace any function.

Each module of the judge is executed again from its file, into a namespace of its own, and compared with the one that is
in use: constants by value, functions by their code and defaults, classes attribute by attribute.  That is done when
the first test is called and when the session ends.  In between, before each test's call and while a number is judged,
each name has to be bound to the same object as then: a patch for the time of a test shows as well.

It cannot see what is no module of the judge, such as torch, NumPy or Python's builtins; a patch that a test or a
replaced fixture makes and takes back within itself; or this module, replaced.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Generator, Iterable, Iterator, Mapping
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest

CHANGED = "scanproof is not its source"
"""User property of a test, and key of what a worker hands on: names of the judge that were not as in its source."""
WATCH = "scanproof-own-source"
"""Name of the part of the plugin that looks."""
JUDGE = (
    "scanproof.numbers", "scanproof.kernels", "scanproof.history", "scanproof.plugin", "scanproof.evaluation",
    "scanproof.record", "scanproof.files", "scanproof.errors",
)  # fmt: skip
"""Packages and modules that decide what passes."""
OTHERS = ("scanproof.plugin.options", "scanproof.kernels.device", "scanproof.evaluation.worker")
"""What of them decides nothing in the session: where things lie, what the machine has, and what runs in a worker."""
UNSEEN = frozenset({"__dict__", "__weakref__", "__doc__", "__annotations__", "__annotate__", "__annotations_cache__",
                    "__builtins__", "__cached__", "__file__", "__spec__", "__loader__", "__path__", "__package__",
                    "_abc_impl", "__firstlineno__", "__signature__", "__static_attributes__",
                    "__slotnames__"})  # fmt: skip
"""Names that Python itself sets; the last one when an object of the class is pickled or copied."""
FUNCTION = ("__code__", "__defaults__", "__kwdefaults__")
WRAPPERS: Mapping[type, tuple[str, ...]] = {
    staticmethod: ("__func__",), classmethod: ("__func__",), property: ("fget", "fset", "fdel"),
    cached_property: ("func",), partial: ("func", "args", "keywords"), types.MethodType: ("__func__", "__self__"),
}  # fmt: skip


class JudgeWatch:
    """Asks before each test's call whether every name of the judge in this process is bound to what it was.

    A module is compared with its source when it is first seen, and after the last test.  What it sees goes with the
    test's report, from every process in which tests run, and is kept here as well: reports can be changed.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Mapping[str, Any]] = {}
        """Module of the judge -> its namespace, made again from its source."""
        self.bound: list[Bound] = []
        self.noted: set[str] = set()
        """Names that were not what their source says, here or in a process in which tests ran on their own."""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """When all fixtures are there: a patch for the time of the test as well."""
        self.note(item, self.list_replaced())
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        if nextitem is None:
            self.note(item, self.list_changed())
        return (yield)

    def note(self, item: pytest.Item, names: Iterable[str]) -> None:
        """Keep what is not as its source says, and hand it on with the report of a test."""
        names = set(names)
        item.user_properties.extend((CHANGED, name) for name in names if (CHANGED, name) not in item.user_properties)
        self.keep(item.config, names)

    def keep(self, config: pytest.Config, names: Iterable[str]) -> None:
        """Keep names; a worker of pytest-xdist hands them on when it ends."""
        self.noted.update(names)
        if hasattr(config, "workeroutput"):
            config.workeroutput[CHANGED] = sorted(self.noted)

    def list_replaced(self) -> set[str]:
        """Names that are bound to something else than when their module was first seen, or were changed by then."""
        replaced = {name for bound in self.bound for name in bound.list_rebound()}
        new = {name: module for name, module in list_judges().items() if name not in self.sources}
        self.bound.append(Bound(new))
        return replaced | set(self.compare(new))

    def list_changed(self) -> set[str]:
        """All names that are not what the source says, also where an object was changed in place."""
        return set(self.compare(list_judges()))

    def compare(self, modules: Mapping[str, types.ModuleType]) -> Iterator[str]:
        """Names of these modules that are not what their source says, such as `scanproof.record.RUN_FILE`."""
        for name, module in modules.items():
            try:
                again = self.sources[name] if name in self.sources else execute_again(module)
            except Exception as error:
                yield f"{name} ({type(error).__name__}: {error})"
            else:
                self.sources[name] = again
                yield from compare_namespaces(name, vars(module), again)


def note_replaced(item: pytest.Item) -> None:
    """Look while a number is judged: what a fixture patches may have been restored when its test is called."""
    watch = item.config.pluginmanager.getplugin(WATCH)
    if watch is not None:
        watch.note(item, watch.list_replaced())


def list_judges() -> dict[str, types.ModuleType]:
    """The modules of the judge that are loaded, by name."""
    return {
        name: module
        for name, module in sorted(sys.modules.items())
        if is_inside(name, JUDGE)
        and not is_inside(name, OTHERS)
        # Another thread may be at it.
        and not getattr(module.__spec__, "_initializing", False)
    }


def is_inside(name: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of these, or lies in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def execute_again(module: types.ModuleType) -> dict[str, Any]:
    """Execute a module's source in a namespace of its own, compiled as it was when it was loaded."""
    path = Path(str(module.__file__))
    source = path.read_bytes()
    tree = ast.parse(source, str(path))
    if type(module.__loader__).__name__ == "AssertionRewritingHook":
        from _pytest.assertion.rewrite import rewrite_asserts

        rewrite_asserts(tree, source, str(path), getattr(module.__loader__, "config", None))
    again = types.ModuleType(module.__name__)
    for name in ("__file__", "__package__", "__spec__", "__loader__", "__path__"):
        if hasattr(module, name):
            setattr(again, name, getattr(module, name))
    exec(compile(tree, str(path), "exec", dont_inherit=True), vars(again))
    return vars(again)


def compare_namespaces(where: str, used: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Names that are bound to other things; in modules also those that their source does not have."""
    for name in again.keys() | used.keys():
        if is_unseen(name):
            continue
        if name not in again:
            # A submodule becomes a name of its package when it is imported.
            if not isinstance(used[name], types.ModuleType):
                yield f"{where}.{name}"
        elif name not in used or not Comparison().same(used[name], again[name]):
            yield f"{where}.{name}"


class Comparison:
    """One comparison of two objects that the same source has made."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], tuple[Any, Any]] = {}
        """Pairs that are compared already, or just now: classes know their methods, and these their class."""

    def same(self, used: Any, again: Any) -> bool:
        """Whether two objects mean the same, as far as that can be told from outside."""
        pair = id(used), id(again)
        if used is again or pair in self.seen:
            return True
        if name_of(type(used)) != name_of(type(again)):
            return False
        # With the objects themselves, or another could get the place in memory of one that is gone.
        self.seen[pair] = used, again
        if isinstance(used, types.FunctionType):
            return self.same_functions(used, again)
        if isinstance(used, type):
            return name_of(used) == name_of(again) and self.same_classes(used, again)
        if isinstance(used, dict | types.MappingProxyType):
            return self.same_items([*used.items()], [*again.items()])
        if isinstance(used, list | tuple):
            return self.same_items(used, again)
        if isinstance(used, set | frozenset):
            return self.same_items(sorted(used, key=repr), sorted(again, key=repr))
        for kind, parts in WRAPPERS.items():
            if isinstance(used, kind):
                return all(self.same(getattr(used, part), getattr(again, part)) for part in parts)
        if hasattr(used, "__wrapped__"):
            return self.same(used.__wrapped__, again.__wrapped__)
        return self.same_values(used, again)

    def same_items(self, used: Any, again: Any) -> bool:
        return len(used) == len(again) and all(map(self.same, used, again))

    def same_functions(self, used: Any, again: Any) -> bool:
        cells = [[contents_of(cell) for cell in function.__closure__ or ()] for function in (used, again)]
        parts = [[getattr(function, part) for part in FUNCTION] for function in (used, again)]
        home = vars(sys.modules[used.__module__]) if used.__module__ in sys.modules else used.__globals__
        # What `dataclass` and `enum` make has globals of its own.
        at_home = used.__globals__ is home or used.__globals__.get("__name__") == again.__globals__.get("__name__")
        return at_home and self.same(parts[0], parts[1]) and self.same(cells[0], cells[1])

    def same_classes(self, used: Any, again: Any) -> bool:
        bases = [name_of(base) for base in used.__mro__] == [name_of(base) for base in again.__mro__]
        names = [name for name in vars(used).keys() | vars(again).keys() if not is_unseen(name)]
        return bases and all(
            name in vars(used) and name in vars(again) and self.same(vars(used)[name], vars(again)[name])
            for name in names
        )

    def same_values(self, used: Any, again: Any) -> bool:
        if isinstance(used, Enum):
            return self.same(vars(used), vars(again))
        if isinstance(used, types.CodeType):
            return bool(used == again)
        if isinstance(used, int | float | complex | str | bytes | type(None) | Path | re.Pattern):
            return repr(used) == repr(again) and (used == again or used != used)
        # Hints are known by what they say: typing keeps notes of its own in them.
        is_hint = type(used).__module__ == "typing"
        if hasattr(used, "__dict__") and not is_hint and not isinstance(used, types.ModuleType):
            return self.same_items([*vars(used).items()], [*vars(again).items()])
        without_place = [re.sub(r" at 0x[0-9a-f]+", "", repr(each)) for each in (used, again)]
        return without_place[0] == without_place[1]


def contents_of(cell: types.CellType) -> Any:
    """What a function has kept of the scope that it was made in; None where that is not set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def is_unseen(name: str) -> bool:
    """Whether a name is set by Python, by pytest's assertions, or by dataclasses and pydantic from the others."""
    return name in UNSEEN or name.startswith(("@", "__pydantic_", "_pydantic_", "__dataclass_fields__"))


def name_of(kind: type) -> tuple[str, str]:
    """How a class is known, also where its module was executed again."""
    return kind.__module__, kind.__qualname__


class Bound:
    """What the names of the judge were bound to at one moment."""

    def __init__(self, modules: Mapping[str, types.ModuleType]) -> None:
        self.names = [
            (where, name, value, parts_of(value))
            for module in modules.values()
            for where, namespace in list_namespaces(module)
            for name, value in namespace.items()
            if not is_unseen(name) and not isinstance(value, types.ModuleType)
        ]

    def list_rebound(self) -> Iterator[str]:
        """Names that are bound to something else now, or to a function with another code."""
        for owner, name, value, parts in self.names:
            now = vars(owner).get(name)
            if now is not value or parts_of(now) != parts:
                yield f"{getattr(owner, '__module__', None) or owner.__name__}.{name}"


def list_namespaces(module: types.ModuleType) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """A module and its classes, each with its names."""
    yield module, dict(vars(module))
    for value in [*vars(module).values()]:
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield value, dict(vars(value))


def parts_of(value: Any) -> tuple[int, ...]:
    """Which code and defaults a function has."""
    return tuple(id(getattr(value, part)) for part in FUNCTION) if isinstance(value, types.FunctionType) else ()
