"""Which releases of lm-eval are supported: said in one place, and the same as what installing scanproof asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scanproof import environment
from scanproof.evaluation import harness_version

ROOT = Path(__file__).parents[2]


def test_the_bounds_are_those_that_pip_is_given() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    asked = [Requirement(line) for line in [*project["dependencies"], *optional]]
    (bounds,) = {str(each.specifier) for each in asked if each.name == "lm-eval"}
    assert set(bounds.split(",")) == set(harness_version.SUPPORTED.split(","))


@pytest.mark.parametrize(
    ("installed", "supported"),
    [
        ("0.4.9", False), ("0.4.10", False), ("0.4.11", False), ("0.4.12", True), ("0.4.13", True),
        ("0.4.13.dev3", True), ("0.5.0.dev1", False), ("0.5.0", False), ("of my own", False), (None, False),
    ],
)  # fmt: skip
def test_which_releases_can_run_a_job(monkeypatch: pytest.MonkeyPatch, installed: str | None, supported: bool) -> None:
    monkeypatch.setattr(environment, "versions", lambda names: dict.fromkeys(names, installed))
    problem = harness_version.why_unsupported()
    assert (problem is None) == supported
    if problem is not None:
        assert f"pip install 'lm-eval[hf]{harness_version.SUPPORTED}'" in problem


def test_the_lm_eval_of_this_environment_is_supported() -> None:
    assert harness_version.why_unsupported() is None
