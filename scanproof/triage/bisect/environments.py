"""The versions of an environment: of a virtual environment, or of a lock file in the form of requirements."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?\s*==\s*(?P<version>[^\s;\\#]+)")
_LIST = (
    "import json, importlib.metadata as m;"
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}))"
)


class EnvironmentProblem(Exception):
    """An environment cannot be read; the message says what and where."""


@dataclass(frozen=True)
class Environment:
    """Versions, and the interpreter that has them if there is one."""

    name: str
    versions: Mapping[str, str]
    """By name as packages are looked up: lower case, dashes."""
    python: Path | None


def read(given: str) -> Environment:
    """A folder with a virtual environment, or a file of pins; raises EnvironmentProblem."""
    path = Path(given)
    if path.is_dir():
        python = interpreter(path)
        return Environment(given, installed(python), python)
    if not path.is_file():
        raise EnvironmentProblem(f"{given}: neither a virtual environment nor a lock file")
    return Environment(given, pins(path), None)


def interpreter(folder: Path) -> Path:
    """The Python of a virtual environment; raises EnvironmentProblem."""
    for name in ("bin/python", "Scripts/python.exe"):
        if (folder / name).exists():
            return (folder / name).absolute()
    raise EnvironmentProblem(f"{folder}: not a virtual environment: there is no bin/python in it")


def installed(python: Path) -> dict[str, str]:
    """What an interpreter finds installed; raises EnvironmentProblem."""
    result = subprocess.run([str(python), "-I", "-c", _LIST], capture_output=True, text=True, check=False)
    if result.returncode:
        raise EnvironmentProblem(f"{python}: {result.stderr.strip().splitlines()[-1:]}")
    return {normal(name): version for name, version in json.loads(result.stdout).items()}


def here() -> Environment:
    """The environment that this runs in."""
    return Environment("this one", installed(Path(sys.executable)), Path(sys.executable))


def pins(path: Path) -> dict[str, str]:
    """`name==version` per line; comments, options and hashes are passed over.

    Raises EnvironmentProblem for a requirement that is not pinned.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(("#", "-")):
            continue
        match = _PIN.match(text)
        if match is None:
            raise EnvironmentProblem(f"{path}:{number}: {text!r} is not pinned: write name==version")
        found[normal(match["name"])] = match["version"]
    if not found:
        raise EnvironmentProblem(f"{path}: no pinned packages in it; write a line name==version each (pip freeze)")
    return found


def normal(name: str) -> str:
    """A distribution's name as packages are looked up (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Differences:
    """What two environments differ in, seen from an interpreter that mixtures are laid over."""

    good: Mapping[str, str]
    """Package -> version, for those that are tried."""
    bad: Mapping[str, str]
    common: Mapping[str, str]
    """Those of one version in both."""
    left_out: tuple[str, ...]
    """What differs and cannot be tried: a package that one side lacks and the interpreter has."""


def differences(good: Environment, bad: Environment, base: Environment) -> Differences:
    """The packages to search among; what only one side has is laid over where the interpreter lacks it."""
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    common: dict[str, str] = {}
    left_out = []
    for name in sorted({*good.versions, *bad.versions}):
        old, new = good.versions.get(name), bad.versions.get(name)
        if old == new and old is not None:
            common[name] = old
            continue
        if None in (old, new) and name in base.versions:
            left_out.append(f"{name}: {old or 'none'} -> {new or 'none'}, and a package cannot be hidden")
            continue
        if old is not None:
            first[name] = old
        if new is not None:
            second[name] = new
    return Differences(first, second, common, tuple(left_out))
