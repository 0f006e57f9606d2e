"""The versions of an environment: of a virtual environment, or of a lock file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from scanproof import files
from scanproof.triage.bisect.lock_files import EnvironmentProblem, read_pins

OWN = "scanproof"
"""The distribution that measures; from a folder or a repository it is not laid over the interpreter's."""
_LIST = """
import importlib.metadata, json, platform
def row(found):
    try:
        direct = json.loads(found.read_text("direct_url.json") or "null")
    except ValueError:
        direct = None
    return found.metadata["Name"], found.version, direct
rows = [row(found) for found in importlib.metadata.distributions() if found.metadata["Name"]]
version = platform.python_version()
python = {"python_full_version": version, "python_version": ".".join(version.split(".")[:2])}
print(json.dumps({"rows": rows, "python": python}))
"""


@dataclass(frozen=True)
class Environment:
    """Versions, and the interpreter that has them if there is one."""

    name: str
    versions: Mapping[str, str]
    """By name as packages are looked up, lower case and dashes; `@ URL` for what is installed from an address."""
    python: Path | None
    conda: Mapping[str, str] = field(default_factory=dict)
    """Packages of conda, which cannot be laid over."""
    markers: Mapping[str, str] = field(default_factory=dict)
    """What the interpreter says of itself in markers; empty for a lock file."""


def read_both(good: str, bad: str) -> tuple[Environment, Environment, Environment]:
    """Two environments, and the one whose interpreter runs mixtures of them; raises EnvironmentProblem.

    The interpreter is that of the good environment, or this one where that is a lock file.  Markers in lock files are
    those of this interpreter.
    """
    base = read(good) if files.is_folder(Path(good)) else here()
    first = base if files.is_folder(Path(good)) else read(good, base.markers)
    return first, read(bad, base.markers), base


def read(given: str, markers: Mapping[str, str] | None = None) -> Environment:
    """A folder with a virtual environment, or a lock file; raises EnvironmentProblem."""
    path = Path(given)
    if files.is_folder(path):
        return installed(given, interpreter(path))
    if not files.is_file(path):
        raise EnvironmentProblem(f"{given}: neither a virtual environment nor a lock file")
    pins = read_pins(path, markers)
    return Environment(given, pins.versions, None, pins.conda)


def interpreter(folder: Path) -> Path:
    """The Python of a virtual environment; raises EnvironmentProblem."""
    for name in ("bin/python", "Scripts/python.exe"):
        if files.is_file(folder / name):
            return (folder / name).absolute()
    raise EnvironmentProblem(f"{folder}: not a virtual environment: there is no bin/python in it")


def installed(name: str, python: Path) -> Environment:
    """What an interpreter finds installed; raises EnvironmentProblem."""
    try:
        result = subprocess.run([str(python), "-I", "-c", _LIST], capture_output=True, text=True, check=False)
        if result.returncode:
            last = next(reversed(result.stderr.strip().splitlines()), f"it ended with {result.returncode}")
            raise EnvironmentProblem(f"{python}: cannot be asked what is installed: {last}")
        content = files.parse_json(result.stdout)
        # The first of a name is the one that is imported.
        rows = [(str(package), find_origin(version, direct)) for package, version, direct in reversed(content["rows"])]
        versions = {str(canonicalize_name(package)): origin for package, origin in rows}
        return Environment(name, versions, python, markers=dict(content["python"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(f"{python}: cannot be asked what is installed: {error}") from None


def find_origin(version: str, direct: Any) -> str:
    """The version of an installed package, or `@ URL` where pip says that it comes from a commit or a folder."""
    url = direct.get("url") if isinstance(direct, dict) else None
    if not isinstance(url, str):
        return version
    commit = direct["vcs_info"].get("commit_id") if isinstance(direct.get("vcs_info"), dict) else None
    if commit:
        return f"@ {direct['vcs_info'].get('vcs', 'git')}+{url}@{commit}"
    return f"@ {url}" if "dir_info" in direct else version


def here() -> Environment:
    """The environment that this runs in."""
    return installed("this one", Path(sys.executable))


def as_requirement(name: str, version: str) -> str:
    """What pip installs it by."""
    return f"{name} {version}" if version.startswith("@ ") else f"{name}=={version}"


@dataclass(frozen=True)
class Differences:
    """What two environments differ in, seen from an interpreter that mixtures are laid over."""

    good: Mapping[str, str]
    """Package -> version, for those that are tried."""
    bad: Mapping[str, str]
    common: Mapping[str, str]
    """Those of one version in both."""
    left_out: tuple[str, ...]
    """What differs and cannot be tried: a package that one side lacks and the interpreter has, one of conda, and a
    scanproof that is no release."""


def differences(good: Environment, bad: Environment, base: Environment) -> Differences:
    """The packages to search among; what only one side has is laid over where the interpreter lacks it."""
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    common: dict[str, str] = {}
    left_out = list_conda_changes(good, bad)
    for name in sorted({*good.versions, *bad.versions}):
        old, new = good.versions.get(name), bad.versions.get(name)
        if name == OWN and any(side.startswith("@ ") for side in (old, new, base.versions.get(name)) if side):
            if old != new:
                left_out.append(f"{name}: {old or 'none'} -> {new or 'none'}; the interpreter's own measures")
            continue
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


def list_conda_changes(good: Environment, bad: Environment) -> list[str]:
    """The packages of conda that differ where both environments name some."""
    if not good.conda or not bad.conda:
        return []
    names = sorted({*good.conda, *bad.conda})
    pairs = [(name, good.conda.get(name), bad.conda.get(name)) for name in names]
    return [f"{name}: {old or 'none'} -> {new or 'none'}, a package of conda" for name, old, new in pairs if old != new]
