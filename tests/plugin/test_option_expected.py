"""--scanproof-expected: where the published numbers are read from, and what is said of mistakes in them."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project


def break_two_values(project: Project) -> None:
    path = project.document() / "one.yaml"
    text = path.read_text().replace("arc_easy, metric: acc,", "arc_eazy, metric: acc,").replace('"0.4500"', '"45.00"')
    path.write_text(text)


def test_default_is_the_folder_beside_the_ini_file(project: Project) -> None:
    project.document()
    project.run().assert_outcomes(passed=6)


@pytest.mark.parametrize("way", ["flag", "ini", "environment"])
def test_another_folder(project: Project, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document()
    (project.root / "expected").rename(project.root / "numbers")
    arguments = []
    if way == "flag":
        arguments = ["--scanproof-expected", "numbers"]
    elif way == "ini":
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_expected = numbers\n")
    else:
        monkeypatch.setenv("SCANPROOF_EXPECTED", "numbers")
    project.run(*arguments).assert_outcomes(passed=6)


def test_mistakes_are_one_usage_error_with_every_line(project: Project) -> None:
    break_two_values(project)
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*900-test/one.yaml:12:*arc_eazy*", "*900-test/one.yaml:13:*45.00*"])
    assert "Traceback" not in result.stderr.str()
    assert project.jobs() == []


def test_no_such_folder(project: Project) -> None:
    result = project.run("--scanproof-expected", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--scanproof-expected: there is no folder*nowhere*"])
