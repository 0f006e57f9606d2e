"""The versions that a lock file pins: requirements (`pip freeze`), uv.lock and its like, conda's environment.yml."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from scanproof import files
from scanproof.numbers.expected.problems import ExpectedError
from scanproof.numbers.expected.yaml_lines import read_yaml
from scanproof.printable import LONGEST, make_printable

LARGEST = 1 << 24
"""Bytes of a lock file; a uv.lock of 500 packages has 1 MB."""
DEEPEST = 10
"""Files that include each other with `-r`."""
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_PASSED_OVER = {
    "-c", "--constraint", "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--pre",
    "--trusted-host", "--no-binary", "--only-binary", "--prefer-binary", "--require-hashes", "--use-feature",
}  # fmt: skip
"""Options of a requirements file that name no package."""
_COMMENT = re.compile(r"(^|\s)#.*")
_HASHES = re.compile(r"\s--(hash|config-settings?|global-option|install-option)[= ].*")
_URL = re.compile(r"(?P<url>(git|hg|svn|bzr)\+[^#]+|(https?|file)://[^#]+)(#(.*&)?egg=(?P<egg>[A-Za-z0-9._-]+).*)?")
_WHEEL = re.compile(r".*/(?P<name>[A-Za-z0-9._]+)-[^/-]+(-[^/-]+)*\.whl")
_CONDA = re.compile(r"(?P<name>[A-Za-z0-9_.:/-]+?)\s*=+\s*(?P<version>[^=\s]+)(=(?P<build>[^=\s]+))?")


class EnvironmentProblem(Exception):
    """An environment cannot be read; the message says what and where."""

    def __init__(self, message: str) -> None:
        super().__init__(make_printable(message, LONGEST, lines=True))


@dataclass
class Pins:
    """What a lock file pins."""

    versions: dict[str, str] = field(default_factory=dict)
    """By name as packages are looked up: a version, or `@ URL` of what is installed from an address."""
    conda: dict[str, str] = field(default_factory=dict)
    """Packages of conda, which pip cannot lay over: version, and build where it is named."""

    def add(self, where: str, name: str, version: str) -> None:
        """Add a pin; raises EnvironmentProblem where the package is pinned to something else already."""
        before = self.versions.setdefault(canonicalize_name(name), version)
        if before != version:
            raise EnvironmentProblem(f"{where}: {name} is pinned twice, {before} and {version}; remove one of them")


def read_pins(path: Path, python: Mapping[str, str] | None = None) -> Pins:
    """Read a lock file; its form follows from its name, requirements where that says nothing.

    Args:
        python: in place of this interpreter's values of markers, `python_version` and others.

    Raises:
        EnvironmentProblem: it cannot be read, or a package is not pinned; names the file and the line or key.
    """
    pins = Pins()
    if path.suffix in (".lock", ".toml"):
        _read_toml(path, pins, python)
    elif path.suffix in (".yml", ".yaml"):
        _read_conda(path, pins, python)
    else:
        _read_requirements(path, pins, python, ())
    if not pins.versions:
        message = "no pinned packages in it; write a line name==version each (pip freeze)"
        raise EnvironmentProblem(f"{path}: {message}")
    return pins


def read_lock_text(path: Path) -> str:
    """The text of a lock file; UTF-16 only with its mark, as PowerShell writes it.  Raises EnvironmentProblem."""
    try:
        content = files.read_bytes(path, LARGEST)
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read: {error.strerror}") from None
    mark, encoding = next(((mark, name) for mark, name in _BOMS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EnvironmentProblem(f"{path}:{line}: is not text in {encoding}; save it as UTF-8") from None
    if "\0" in text:
        raise EnvironmentProblem(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: is not text but binary")
    return text


def _read_requirements(path: Path, pins: Pins, python: Mapping[str, str] | None, around: tuple[Path, ...]) -> None:
    here = path.resolve()
    if here in around or len(around) >= DEEPEST:
        raise EnvironmentProblem(f"{path}: is included by itself, or more than {DEEPEST} files deep")
    for number, line in _logical_lines(read_lock_text(path)):
        _read_requirement_line(path, f"{path}:{number}", line, pins, python, (*around, here))


def _read_requirement_line(
    path: Path, where: str, line: str, pins: Pins, python: Mapping[str, str] | None, around: tuple[Path, ...]
) -> None:
    """A line as pip reads it, of a file of requirements or below `pip:` of conda: a package, an option or a comment."""
    text = _HASHES.sub("", _COMMENT.sub("", line)).strip()
    option, _, value = text.replace("=", " ", 1).partition(" ") if text.startswith("--") else text.partition(" ")
    value = value.strip()
    if text.startswith("-r") and option not in ("-r", "--requirement"):
        option, value = "-r", text[2:]
    if option in ("-r", "--requirement"):
        _read_requirements(path.parent / value, pins, python, around)
    elif option in ("-e", "--editable"):
        _add_requirement(where, value, pins, python)
    elif text.startswith("-"):
        if option not in _PASSED_OVER:
            raise EnvironmentProblem(f"{where}: {option!r} is no option of a lock file that is known here")
    elif text:
        _add_requirement(where, text, pins, python)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) with those that a backslash continues joined."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun if parts else number
        if line.rstrip().endswith("\\"):
            parts.append(line.rstrip()[:-1])
            continue
        yield begun, " ".join([*parts, line])
        parts = []
    if parts:
        yield begun, " ".join(parts)


def _add_requirement(where: str, text: str, pins: Pins, python: Mapping[str, str] | None) -> None:
    address = _URL.fullmatch(text)
    if address is not None:
        wheel = _WHEEL.fullmatch(address["url"])
        name = address["egg"] or (wheel["name"] if wheel else None)
        if name is None:
            raise EnvironmentProblem(f"{where}: {text!r} does not say its package; write name @ {text}")
        pins.add(where, name, f"@ {address['url']}")
        return
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError):
        message = "is not pinned: write name==version, or name @ git+https://...@commit"
        raise EnvironmentProblem(f"{where}: {text!r} {message}") from None
    if requirement.marker is not None and not _applies(requirement.marker, python):
        return
    if requirement.url is not None:
        pins.add(where, requirement.name, f"@ {requirement.url}")
        return
    exact = [one for one in requirement.specifier if one.operator in ("==", "===") and not one.version.endswith(".*")]
    if len(exact) != 1:
        message = f"is not pinned to one version: write {requirement.name}==version"
        raise EnvironmentProblem(f"{where}: {text!r} {message}")
    pins.add(where, requirement.name, exact[0].version)


def _applies(marker: Marker, python: Mapping[str, str] | None) -> bool:
    try:
        return marker.evaluate(None if python is None else dict(python))
    except ValueError:
        # It compares what is not known here, such as an extra: then the package stays.
        return True


def _read_toml(path: Path, pins: Pins, python: Mapping[str, str] | None) -> None:
    """uv.lock, poetry.lock and pdm.lock have `[[package]]`, pylock.toml `[[packages]]`."""
    try:
        content = tomllib.loads(read_lock_text(path))
    except (ValueError, RecursionError) as error:
        raise EnvironmentProblem(f"{path}: is not TOML: {error}") from None
    packages = content.get("package", content.get("packages"))
    if not isinstance(packages, list):
        raise EnvironmentProblem(f"{path}: package: missing; a lock file lists [[package]] or [[packages]]")
    for position, package in enumerate(packages):
        where = f"{path}: package.{position}"
        if not isinstance(package, dict) or not isinstance(package.get("name"), str):
            raise EnvironmentProblem(f"{where}.name: missing; it is the name of a package")
        if _is_for_here(where, package, python):
            version = _locked_version(where, path, package)
            if version is not None:
                pins.add(where, package["name"], version)


def _is_for_here(where: str, package: Mapping[str, Any], python: Mapping[str, str] | None) -> bool:
    """Whether one of the markers of a package holds: a lock file may name a package once for each platform."""
    markers = package.get("resolution-markers", package.get("marker", []))
    try:
        parsed = [Marker(text) for text in ([markers] if isinstance(markers, str) else markers)]
    except (InvalidMarker, TypeError, RecursionError):
        raise EnvironmentProblem(f"{where}: {markers!r} is no marker") from None
    return not parsed or any(_applies(marker, python) for marker in parsed)


def _locked_version(where: str, path: Path, package: Mapping[str, Any]) -> str | None:
    """A version, or the address that a package is installed from; None for the project itself."""
    source = package.get("source", package.get("vcs", {}))
    if not isinstance(source, dict):
        raise EnvironmentProblem(f"{where}.source: expected a table, found {source!r}")
    local = next((str(source[key]) for key in ("path", "directory", "editable", "virtual") if key in source), None)
    if local is not None:
        return None if local == "." else f"@ file://{(path.parent / local).absolute()}"
    address = next((str(source[key]) for key in ("git", "url") if key in source), None)
    if "git" in source or source.get("type") == "git":
        base, _, commit = str(address).partition("#")
        commit = commit or str(source.get("resolved_reference", source.get("commit-id", "")))
        return f"@ git+{base.partition('?')[0]}@{commit}" if commit else f"@ git+{base}"
    if address is not None and source.get("type") != "legacy":
        return f"@ {address}"
    version = package.get("version")
    if not isinstance(version, str):
        raise EnvironmentProblem(f"{where}.version: missing; it is a version in quotes")
    return version


def _read_conda(path: Path, pins: Pins, python: Mapping[str, str] | None) -> None:
    """`conda env export`: conda's own packages, and below `pip:` lines of requirements."""
    try:
        content = read_yaml(path)
    except ExpectedError as error:
        raise EnvironmentProblem(str(error)) from None
    if content.problems:
        raise EnvironmentProblem("\n".join(map(str, content.problems)))
    listed = content.data.get("dependencies") if isinstance(content.data, dict) else None
    if not isinstance(listed, list):
        raise EnvironmentProblem(f"{path}: dependencies: missing; `conda env export` lists packages under this key")
    for position, entry in enumerate(listed):
        where = f"{path}:{content.line(('dependencies', position))}"
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            for line in map(str, entry["pip"]):
                _read_requirement_line(path, where, line, pins, python, (path.resolve(),))
            continue
        match = _CONDA.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            raise EnvironmentProblem(f"{where}: {entry!r} is not pinned: write name=version=build (conda env export)")
        pins.conda[match["name"]] = "=".join(filter(None, [match["version"], match["build"]]))
