"""Finds out where a kernel's file comes from: which installed kernel package and which module contain it."""

from __future__ import annotations

import importlib.util
import json
import os
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from urllib.parse import unquote, urlsplit

from scanproof.kernels.launches import kernel_table


def distribution_of(file: str) -> str | None:
    """The installed kernel package of the table that contains a file, or None."""
    path = os.path.realpath(file)
    for package in kernel_table.PACKAGES:
        distribution = find_installed(package.distribution)
        if distribution is not None and _holds(distribution, package.modules, path):
            return package.distribution
    return None


def find_installed(distribution: str) -> metadata.Distribution | None:
    """The metadata of an installed distribution; None if it is not installed."""
    try:
        return metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None


def module_of(file: str) -> str | None:
    """The top-level module of the table, as `import` finds it here, that contains a file; None if there is none."""
    path = os.path.realpath(file)
    for module in (module for package in kernel_table.PACKAGES for module in package.modules):
        spec = _spec(module)
        if spec is not None and any(_is_at_or_below(path, location) for location in _locations(spec)):
            return module
    return None


def source_folder(distribution: metadata.Distribution) -> Path | None:
    """The source folder of an editable installation (PEP 660); None for other installations."""
    direct = direct_url(distribution)
    info = direct.get("dir_info")
    if not (isinstance(info, dict) and info.get("editable")):
        return None
    return Path(unquote(urlsplit(str(direct.get("url"))).path))


def direct_url(distribution: metadata.Distribution) -> dict[str, object]:
    """The installer's record of an installation from a URL or folder (PEP 610); empty for one from a package index."""
    text = distribution.read_text("direct_url.json")
    try:
        content = json.loads(text) if text else {}
    except ValueError:
        # The file is broken: where the installation comes from is not known.
        return {}
    return content if isinstance(content, dict) else {}


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:
        # The module was loaded without a spec, as `interpreter` does.  Its files are where the finder says.
        return PathFinder.find_spec(module)


def _locations(spec: ModuleSpec) -> list[str]:
    """The folders of a package, or the file of a single module."""
    folders = list(spec.submodule_search_locations or ())
    return folders or ([spec.origin] if spec.origin else [])


def _is_at_or_below(path: str, place: str) -> bool:
    place = os.path.realpath(place)
    return path == place or path.startswith(place + os.sep)


def _holds(distribution: metadata.Distribution, modules: tuple[str, ...], path: str) -> bool:
    """Whether a file belongs to an installed distribution."""
    source = source_folder(distribution)
    if source is not None and _is_at_or_below(path, str(source)):
        return True
    if distribution.files is None:
        # The installer left no list of files: take what lies beside the metadata under the names of its modules.
        return any(_is_at_or_below(path, str(distribution.locate_file(module))) for module in modules)
    named = [file for file in distribution.files if file.name == Path(path).name]
    return any(os.path.realpath(str(distribution.locate_file(file))) == path for file in named)
