"""--scanproof-strict: a nightly can never pass by skipping."""

from __future__ import annotations

import pytest

from scanproof.environment import why_no_gpu
from tests.support.small_project import Project

needs_no_gpu = pytest.mark.skipif(
    why_no_gpu() is None, reason="this machine has a GPU: nothing is skipped for lack of one"
)


@needs_no_gpu
def test_without_a_gpu_numbers_are_skipped_with_the_reason(project: Project) -> None:
    project.document(suite="gpu", device="cuda")
    result = project.run()
    result.assert_outcomes(skipped=6)
    result.stdout.fnmatch_lines(["*6 numbers not run: needs an NVIDIA GPU*", "*6 numbers: 6 NOT_RUN*"])
    assert result.ret == pytest.ExitCode.OK
    assert project.jobs() == []


@needs_no_gpu
@pytest.mark.parametrize("way", ["flag", "ini", "environment"])
def test_strict_turns_the_skip_into_an_error(project: Project, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(suite="gpu", device="cuda")
    if way == "ini":
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_strict = true\n")
    elif way == "environment":
        monkeypatch.setenv("SCANPROOF_STRICT", "1")
    result = project.run(*(["--scanproof-strict"] if way == "flag" else []))
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(["*needs an NVIDIA GPU*--scanproof-strict: not a skip*", "*6 numbers: 6 ERROR*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("strict", [False, True])
def test_a_checkpoint_that_the_mirror_lacks_is_a_skip_and_under_strict_an_error(project: Project, strict: bool) -> None:
    project.document(models=("one",))
    project.answer({"kind": "missing", "message": "the mirror /srv/m has no model org/one"})
    result = project.run(*(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"errors" if strict else "skipped": 3})
    result.stdout.fnmatch_lines(["*the mirror /srv/m has no model org/one*"])


def test_a_switch_in_the_environment_is_1_or_0(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANPROOF_STRICT", "perhaps")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*SCANPROOF_STRICT is 1 or 0, not 'perhaps'*"])
