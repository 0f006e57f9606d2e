"""Which packages a GPU machine without a network lacks, for `gpu_wheels.sh` and `gpu_check.sh`.

What the machine has is data, `bare_machine.toml`.  Which versions go together is pip's answer, not ours: it resolves in
an environment that holds what the machine has.  Python 3.11 or later; `complete` wants the package `packaging` too.
"""

from __future__ import annotations

import argparse
import email
import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BARE = ROOT / "tools" / "bare_machine.toml"
BUILT = ("mamba-ssm", "causal-conv1d")
MIB = 2**20


def canonical(name: str) -> str:
    """A distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(bare: Path) -> dict[str, Any]:
    """The description of a machine; SystemExit says what is wrong with it."""
    try:
        found = tomllib.loads(bare.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SystemExit(f"{bare}: {error}") from None
    for key, kind in (("installed", list), ("tests", list), ("left-out", dict)):
        if not isinstance(found.get(key), kind):
            raise SystemExit(f"{bare}: {key} is not there, or not a {'table' if kind is dict else 'list'}")
    return found


def wanted(bare: Mapping[str, Any], pyproject: Path, wheels: Iterable[Path] = ()) -> list[str]:
    """Requirements of scanproof, of its GPU tests, and of wheels that were built here; without what is left out.

    A requirement of what is left out is none.
    """
    own = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    built = [each for wheel in wheels for each in required(wheel)]
    return [each for each in (*own, *bare["tests"], *built) if name_of(each) not in left_out(bare)]


def required(wheel: Path) -> list[str]:
    """The requirements that a wheel is installed with, without extras."""
    with zipfile.ZipFile(wheel) as packed:
        path = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(packed.read(path)).get_all("Requires-Dist") or []
    return [each for each in found if "extra ==" not in each]


def name_of(requirement: str) -> str:
    """`lm-eval` of `lm_eval[hf]>=0.4.9`."""
    return canonical(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def left_out(bare: Mapping[str, Any]) -> frozenset[str]:
    """Names that are not carried."""
    return frozenset(map(canonical, bare["left-out"]))


def unlisted(bare: Mapping[str, Any]) -> list[str]:
    """Names of what is installed here, as a dependency of what the machine has, and is not said to be there."""
    listed = frozenset(map(name_of, bare["installed"]))
    return sorted({canonical(each.metadata["Name"]) for each in metadata.distributions()} - listed)


def missing(report: Mapping[str, Any], without: Iterable[str]) -> list[str]:
    """`name==version` of what pip would install, sorted; without what is left out, and without what was built here.

    Args:
        report: of `pip install --dry-run --report`, where what the machine has is installed.
    """
    rows = [(canonical(each["metadata"]["name"]), each["metadata"]["version"]) for each in report["install"]]
    return sorted(f"{name}=={version}" for name, version in rows if name not in {*without, *BUILT})


def lacking(roots: Iterable[str], without: Iterable[str]) -> Iterator[str]:
    """What this interpreter lacks of the requirements and of theirs, in words."""
    from packaging.requirements import Requirement

    left, seen = frozenset(without), set()
    waiting = [(each, "scanproof") for each in map(Requirement, roots) if each.marker is None or each.marker.evaluate()]
    while waiting:
        requirement, by = waiting.pop()
        name = canonical(requirement.name)
        if name in left or (str(requirement), by) in seen:
            continue
        seen.add((str(requirement), by))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            yield f"{requirement} is not installed; {by} needs it"
            continue
        if not requirement.specifier.contains(found.version, prereleases=True):
            yield f"{name} {found.version} is installed; {by} needs {requirement}"
        for text in found.requires or ():
            below = Requirement(text)
            extras = requirement.extras or {""}
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((below, name))


def sizes(folder: Path) -> Iterator[str]:
    """A line per wheel, the largest first, and their sum."""
    found = sorted(((path.stat().st_size, path.name) for path in folder.glob("*.whl")), reverse=True)
    yield from (f"{size / MIB:8.1f} MiB  {name}" for size, name in found)
    yield f"{sum(size for size, _ in found) / MIB:8.1f} MiB  together, {len(found)} wheels"


def main() -> None:
    """Print what is asked for, one a line; `complete` ends with 1 where something is lacking."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("installed", "unlisted", "wanted", "missing", "complete", "sizes"))
    parser.add_argument(
        "path", nargs="*", type=Path, help="wanted: built wheels; missing: pip's report; sizes: a folder"
    )
    parser.add_argument("--bare", type=Path, default=BARE, help="what the machine has")
    asked = parser.parse_args()
    bare = read(asked.bare)
    roots = wanted(bare, ROOT / "pyproject.toml")
    if asked.what == "installed":
        print("\n".join(bare["installed"]))
    elif asked.what == "unlisted":
        print("\n".join(unlisted(bare)))
    elif asked.what == "wanted":
        print("\n".join(wanted(bare, ROOT / "pyproject.toml", asked.path)))
    elif asked.what == "missing":
        print("\n".join(missing(json.loads(asked.path[0].read_text()), left_out(bare))))
    elif asked.what == "sizes":
        print("\n".join(sizes(asked.path[0])))
    elif found := list(lacking([*roots, *BUILT], left_out(bare))):
        print("\n".join(found))
        sys.exit(1)


if __name__ == "__main__":
    main()
