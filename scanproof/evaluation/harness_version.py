"""Which releases of lm-eval are supported; the same as `dependencies` in pyproject.toml."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from scanproof import environment

SUPPORTED = ">=0.4.12,<0.5"
"""Releases that the stand-ins were measured with: 0.4.12 and 0.4.13.  Older ones load tasks by another interface."""


def why_unsupported() -> str | None:
    """Why no job can run here with the installed lm-eval, and what to do, in one line; None where it can."""
    installed = environment.versions(("lm-eval",))["lm-eval"]
    install = f"python -m pip install 'lm-eval[hf]{SUPPORTED}'"
    if installed is None:
        return f"lm-eval is not installed here: {install}"
    try:
        supported = SpecifierSet(SUPPORTED).contains(Version(installed), prereleases=True)
    except InvalidVersion:
        supported = False
    return None if supported else f"lm-eval {installed} is not supported: {install}"
