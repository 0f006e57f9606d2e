"""Options of pytest that show something and run nothing: a strict session lists only where its call says both."""

from __future__ import annotations

import pytest

from scanproof.plugin.options import STRICT, asks_for_strict, is_typed

LISTING = {
    "collectonly": ("--collect-only", "--collectonly", "--co"),
    "showfixtures": ("--fixtures", "--funcargs"),
    "show_fixtures_per_test": ("--fixtures-per-test",),
    "cacheshow": ("--cache-show",),
    "markers": ("--markers",),
    "help": ("--help", "-h"),
    "version": ("--version", "-V", "-VV"),
}
"""pytest's options that show something and run nothing, by name -> how a call says them."""


def lists_only(config: pytest.Config) -> bool:
    """Whether pytest was asked to show something and to run nothing, and may: see `refuse_listing`."""
    return any(getattr(config.option, name, None) for name in LISTING) and explain_listing(config) is None


def explain_listing(config: pytest.Config) -> str | None:
    """Why a strict session may not list in place of running its tests; None where it may.

    It would end with 0, as one whose tests passed: only a call that says both itself cannot be misread.
    """
    if not asks_for_strict(config):
        return None
    for name, flags in LISTING.items():
        if getattr(config.option, name, None) and not is_typed(config, *flags):
            return f"{flags[0]} runs no test; take it out of PYTEST_ADDOPTS and the ini file, or write it in the call"
    if config.option.collectonly and not is_typed(config, STRICT.flag):
        return (
            f"--collect-only runs no test; {STRICT.variable}=0 lists without strict, or {STRICT.flag} in the call does"
        )
    return None


def refuse_listing(config: pytest.Config) -> None:
    """Raise pytest.UsageError where a strict session would list and run nothing, and its call does not say so."""
    problem = explain_listing(config)
    if problem is not None:
        raise pytest.UsageError(f"scanproof: {problem}")
