"""Whoever follows any place that says how to install the kernel packages gets the same, with their kernels."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from scanproof.kernels.launches import kernel_table
from scanproof.kernels.launches.kernel_table import PACKAGES

ROOT = Path(__file__).parents[2]
NAMES = re.compile("|".join(re.escape(package.distribution) for package in PACKAGES))
COMMAND = re.compile(r"\bpip3? (?:install|wheel|download)\b")
SWITCH = re.compile(r"\b([A-Z0-9_]+)=TRUE\b")
WHOLE = (
    "MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE "
    "pip install --no-build-isolation --no-cache-dir 'mamba-ssm>=2.2.2' 'causal-conv1d>=1.4.0' 'flash-attn>=2.6.3' "
    "'fla-core>=0.5.2'"
)
"""Switches: setup.py of mamba-ssm 2.3.2.post1 and its sources of July 2026, causal-conv1d 1.7.0, flash-attn 2.8.3."""


def tox(environment: str) -> dict[str, list[str]]:
    """Settings of an environment of tox, as lists of lines."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini")
    return {key: [line for line in value.strip().splitlines() if line] for key, value in settings[environment].items()}


def variables(environment: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in tox(environment)["set_env"])
    return {name.strip(): value.strip() for name, _, value in pairs}


def project() -> dict[str, Any]:
    kept: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return kept


def texts() -> list[Path]:
    """What people read, and what runs commands."""
    docs = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.yml"), ROOT / "tox.ini"]
    return [*docs, *ROOT.glob("scanproof/**/*.py")]


def commands(text: str) -> Iterator[tuple[int, str]]:
    """Lines with a command of pip that names a kernel package, and their numbers; continued lines are one."""
    number = 1
    for line in re.sub(r"\\\n\s*", lambda found: "\0" * found[0].count("\n"), text).split("\n"):
        if COMMAND.search(line) and NAMES.search(line):
            yield number, line.replace("\0", "")
        number += 1 + line.count("\0")


def plain(line: str) -> str:
    """A line of a text as the command that it shows."""
    return re.sub(r"python3? -m pip", "pip", line.split("  #")[0].strip().removeprefix("$ "))


def rendered() -> set[str]:
    """Every command that the table makes."""
    several = {kernel_table.install_command(*PACKAGES), f"{kernel_table.INSTALL_EXTRA} && {WHOLE}"}
    single = {line for package in PACKAGES for line in (package.install, package.rebuild)}
    bare = {kernel_table.install_command(package) for package in PACKAGES}
    return several | single | bare | {f"{line} --force-reinstall --no-deps" for line in bare}


def test_the_table_makes_the_command_that_builds_kernels() -> None:
    assert kernel_table.install_command(*PACKAGES) == WHOLE


def test_the_extra_has_what_pip_can_install_in_isolation_and_what_the_builds_need() -> None:
    extras = project()["optional-dependencies"]
    requirements = {extra: {Requirement(line).name for line in lines} for extra, lines in extras.items()}
    assert requirements["gpu"] == {*kernel_table.BUILD_REQUIREMENTS, "nvidia-ml-py"}
    everywhere = set.union(*requirements.values(), {Requirement(line).name for line in project()["dependencies"]})
    assert not everywhere & {package.distribution for package in PACKAGES}, "their setup.py imports torch"
    assert "torch" in {Requirement(line).name for line in project()["dependencies"]}, "it is there before them"
    assert kernel_table.INSTALL_EXTRA == "pip install 'scanproof[gpu]'"


def test_tox_runs_the_command_after_scanproof_and_its_extra_are_installed() -> None:
    environment = tox("testenv:gpu")
    assert environment["extras"] == ["gpu"]
    first, second = environment["commands_pre"]
    expected = [word for word in shlex.split(WHOLE) if not SWITCH.fullmatch(word)]
    assert shlex.split(first) == ["python", "-m", *expected]
    assert second == "- python -m scanproof doctor", "what it finds ends nothing"
    switches = SWITCH.findall(WHOLE)
    assert {name: variables("testenv:gpu").get(name) for name in switches} == dict.fromkeys(switches, "TRUE")


def test_tox_hands_on_what_steers_a_build() -> None:
    passed = set(tox("testenv:gpu")["pass_env"])
    steering = {"MAX_JOBS", "CUDA_*", "NVCC_*", "TORCH_*", "MAMBA_*", "CAUSAL_CONV1D_*", "FLASH_ATT*"}
    assert passed >= steering


def test_the_interpreters_mamba_ssm_without_cuda_does_not_get_into_pips_cache() -> None:
    [command] = [line for line in tox("testenv:interpreted")["commands_pre"] if "mamba-ssm" in line]
    assert {"--no-build-isolation", "--no-cache-dir"} <= set(command.split())
    assert variables("testenv:interpreted")["MAMBA_SKIP_CUDA_BUILD"] == "TRUE"


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_that_names_a_kernel_package_is_one_of_the_tables(path: Path) -> None:
    known = rendered()
    if path.name == "tox.ini":
        known = {plain(line) for name in ("gpu", "interpreted") for line in tox(f"testenv:{name}")["commands_pre"]}
    for number, line in commands(path.read_text()):
        assert plain(line) in known, (
            f"{path}:{number}: not a command of scanproof/kernels/launches/kernel_table.py: {line}"
        )


def test_the_readme_has_the_whole_command_and_the_extra_before_it() -> None:
    text = (ROOT / "README.md").read_text()
    [(number, line)] = commands(text)
    assert plain(line) == WHOLE
    before = text.splitlines()[number - 2]
    assert plain(before) in ("pip install '.[gpu]'", "pip install -e '.[gpu]'")


@pytest.mark.parametrize("path", sorted(ROOT.glob("tools/*.sh")), ids=lambda path: path.name)
def test_a_script_that_sets_a_switch_of_a_package_sets_all_of_them(path: Path) -> None:
    found = set(SWITCH.findall(path.read_text()))
    for package in PACKAGES:
        assert not found & set(package.switches) or found >= set(package.switches), package.distribution


def test_a_night_keeps_what_it_built_outside_its_checkout() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    job = workflow["jobs"]["gpu"]
    assert job["env"]["TOX_WORK_DIR"].endswith("'/var/lib/scanproof/tox' }}")
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert sum("tox -e gpu " in run for run in runs) == 1
    assert not any(".tox/" in run for run in runs), "the environment is in TOX_WORK_DIR"


@pytest.mark.parametrize(("place", "there"), [("in/history", True), ("s3://bucket/history", False)])
def test_a_runner_makes_the_folder_of_its_history_where_it_is_told_that_the_night_is_the_first(
    tmp_path: Path, place: str, there: bool
) -> None:
    """A runner whose volume is not mounted has neither store nor history, as in its first night."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    steps = workflow["jobs"]["gpu"]["steps"]
    [step] = [step for step in steps if "mkdir" in step.get("run", "")]
    assert step["if"] == "${{ inputs.first_night }}"
    [drift] = [step["run"] for step in steps if "history drift" in step.get("run", "")]
    assert drift.endswith("--fewest ${{ inputs.first_night && '1' || '2 --declared' }}")
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True]["workflow_dispatch"]["inputs"]["first_night"]["default"] is False
    variables = {**os.environ, "SCANPROOF_HISTORY": place}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / place).is_dir() is there


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.distribution)
def test_advice_for_what_is_installed_without_its_kernels_replaces_it(package: kernel_table.Package) -> None:
    assert package.rebuild == f"{package.install} --force-reinstall --no-deps"
    assert package.install.startswith(f"{kernel_table.INSTALL_EXTRA} && ")
    assert "--no-cache-dir" in package.install
    assert "--no-build-isolation" in package.install
    assert package.install in package.advice
    assert set(SWITCH.findall(package.install)) == set(package.switches)
