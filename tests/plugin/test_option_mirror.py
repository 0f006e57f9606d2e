"""--scanproof-mirror: checkpoints and datasets by hub name, without network."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project


def test_gpu_jobs_use_the_mirror_given(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(suite="gpu", device="cpu", models=("one",))
    (project.root / "mirror").mkdir()
    project.run("--scanproof-mirror", "mirror").assert_outcomes(passed=3)
    monkeypatch.setenv("SCANPROOF_MIRROR", "mirror")
    project.run().assert_outcomes(passed=3)
    (project.root / "tox.ini").write_text("[pytest]\nscanproof_mirror = mirror\n")
    monkeypatch.delenv("SCANPROOF_MIRROR")
    project.run().assert_outcomes(passed=3)
    assert [job[4] for job in project.jobs()] == [str(project.root / "mirror")] * 3


def test_stand_ins_use_the_mirror_that_scanproof_ships(project: Project) -> None:
    project.document(models=("one",), suite="embedded")
    project.run()
    assert str(project.jobs()[0][4]).endswith("scanproof/embedded/mirror")


def test_no_such_folder(project: Project) -> None:
    result = project.run("--scanproof-mirror", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--scanproof-mirror: there is no folder*nowhere*"])
