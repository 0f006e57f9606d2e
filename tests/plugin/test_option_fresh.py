"""--scanproof-fresh: finished evaluations are ignored."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project


def test_is_off_by_default_and_on_when_asked_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(models=("one",))
    project.run()
    project.run("--scanproof-fresh")
    monkeypatch.setenv("SCANPROOF_FRESH", "1")
    project.run()
    assert [job[3] for job in project.jobs()] == [False, True, True]
