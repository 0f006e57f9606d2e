"""A usage error is said once and records nothing; `latest` stays the last run that measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof.evaluation import harness_version
from scanproof.record import find_run
from tests.support.small_project import Project

Spoil = Callable[[Project, pytest.MonkeyPatch], tuple[str, ...]]


def install_lm_eval(project: Project, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Put the name and version of an lm-eval in front of the installed one; scanproof's own hook evaluates."""
    folder = project.root / "site" / f"lm_eval-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lm-eval\nVersion: {version}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent), prepend=os.pathsep)
    (project.root / "conftest.py").unlink()


def no_number(project: Project) -> None:
    path = project.root / "expected" / "900-test" / "one.yaml"
    path.write_text(path.read_text().replace('"50.0"', '"fifty"'))


def options(*given: str) -> Spoil:
    return lambda project, monkeypatch: given


def broken_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    no_number(project)
    return ()


def in_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("SCANPROOF_STRICT", "perhaps")
    return ()


def old_harness(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    install_lm_eval(project, monkeypatch, "0.4.3")
    return ()


def broken_test(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (project.root / "test_broken.py").write_text("import no_such_module\n")
    return ()


MISTAKES: dict[str, Spoil] = {
    "an option that does not exist": options("--scanproof-surprise"),
    "an option with another value": options("--scanproof-engine=fast"),
    "options that contradict each other": options("--scanproof-fresh", "--scanproof-reuse"),
    "a limit under strict": options("--scanproof-strict", "--scanproof-limit=3"),
    "a folder that is not there": options("--scanproof-expected=nowhere"),
    "a folder of a name too long for any": options(f"--scanproof-expected={'x' * 5000}"),
    "a store of a name too long for any": options(f"--scanproof-store={'x' * 5000}"),
    "a history of a name too long for any": options("--scanproof-strict", f"--scanproof-history={'x' * 5000}"),
    "a test that is not there": options("test_published.py::nobody"),
    "a -k that cannot be read": options("-k", "one and"),
    "a variable with another value": in_environment,
    "a mistake in an expected file": broken_file,
    "an lm-eval that is not supported": old_harness,
    "a file of tests that cannot be imported": broken_test,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_recorded_and_latest_stays(project: Project, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    project.document(models=("one",))
    runs = project.root / ".scanproof" / "runs"
    assert project.run().ret == pytest.ExitCode.OK
    measured = find_run(runs, "latest")
    before = kept_under(runs)
    result = project.run(*MISTAKES[mistake](project, monkeypatch))
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)
    assert len(result.stderr.str()) < 3000
    assert "INTERNALERROR" not in result.stdout.str()
    assert kept_under(runs) == before
    assert find_run(runs, "latest") == measured


def kept_under(runs: Path) -> list[tuple[Path, bytes]]:
    """Every file below the folder of all runs, with its content."""
    return [(path, path.read_bytes()) for path in sorted(runs.rglob("*")) if path.is_file()]


@pytest.mark.parametrize(
    ("version", "workers"), [("0.4.3", ()), ("0.4.3", ("-n", "2")), ("0.4.11", ()), ("0.5.0.dev1", ())]
)
def test_an_lm_eval_that_is_not_supported_is_said_once_and_not_for_each_number(
    project: Project, monkeypatch: pytest.MonkeyPatch, version: str, workers: tuple[str, ...]
) -> None:
    project.document()
    install_lm_eval(project, monkeypatch, version)
    result = project.run(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    shown = result.stdout.str() + result.stderr.str()
    problem = f"lm-eval {version} is not supported: python -m pip install 'lm-eval[hf]{harness_version.SUPPORTED}'"
    assert shown.count(problem) == 1
    assert "Traceback" not in shown
    assert "NOT_RUN" not in shown
    result.assert_outcomes()


def test_an_lm_eval_that_is_not_used_here_does_not_matter(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another plugin evaluates, the lm-eval of this machine measures nothing."""
    project.document(models=("one",))
    kept = (project.root / "conftest.py").read_text()
    install_lm_eval(project, monkeypatch, "0.4.3")
    (project.root / "conftest.py").write_text(kept)
    project.run().assert_outcomes(passed=3)
