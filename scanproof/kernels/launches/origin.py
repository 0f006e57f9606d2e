"""Where a file comes from: the installed kernel package that holds it, and the module that `import` finds there."""

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
    """The installed kernel package of the table that holds a file, or None."""
    path = os.path.realpath(file)
    for package in kernel_table.PACKAGES:
        found = find_installed(package.distribution)
        if found is not None and _holds(found, package.modules, path):
            return package.distribution
    return None


def find_installed(distribution: str) -> metadata.Distribution | None:
    """An installed distribution, or None."""
    try:
        return metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None


def module_of(file: str) -> str | None:
    """The module of the table whose files, as `import` finds them here, a file is one of."""
    path = os.path.realpath(file)
    for module in (module for package in kernel_table.PACKAGES for module in package.modules):
        spec = _spec(module)
        if spec is not None and any(_is_at_or_below(path, place) for place in _places(spec)):
            return module
    return None


def source_folder(distribution: metadata.Distribution) -> Path | None:
    """The folder that an editable installation (PEP 660) takes its files from, or None."""
    direct = direct_url(distribution)
    info = direct.get("dir_info")
    if not (isinstance(info, dict) and info.get("editable")):
        return None
    return Path(unquote(urlsplit(str(direct.get("url"))).path))


def direct_url(distribution: metadata.Distribution) -> dict[str, object]:
    """What the installer noted of an installation that came from a URL (PEP 610); empty for one from an index."""
    text = distribution.read_text("direct_url.json")
    try:
        content = json.loads(text) if text else {}
    except ValueError:
        # Broken, so nothing is known of where it came from.
        return {}
    return content if isinstance(content, dict) else {}


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:
        # Loaded without a spec, as Triton's interpreter needs some of them; the files are where they were.
        return PathFinder.find_spec(module)


def _places(spec: ModuleSpec) -> list[str]:
    folders = list(spec.submodule_search_locations or ())
    return folders or ([spec.origin] if spec.origin else [])


def _is_at_or_below(path: str, place: str) -> bool:
    place = os.path.realpath(place)
    return path == place or path.startswith(place + os.sep)


def _holds(distribution: metadata.Distribution, modules: tuple[str, ...], path: str) -> bool:
    source = source_folder(distribution)
    if source is not None and _is_at_or_below(path, str(source)):
        return True
    if distribution.files is None:
        # An installer that left no list of files: what stands under the package's names beside its metadata.
        return any(_is_at_or_below(path, str(distribution.locate_file(module))) for module in modules)
    named = [file for file in distribution.files if file.name == Path(path).name]
    return any(os.path.realpath(str(distribution.locate_file(file))) == path for file in named)
