"""--scanproof-store: where evaluations and runs are kept."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project


def test_runs_are_kept_where_asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(models=("one",))
    for folder, arguments in (("kept", ["--scanproof-store", "kept"]), ("elsewhere", [])):
        monkeypatch.setenv("SCANPROOF_STORE", "elsewhere")
        project.run(*arguments)
        assert list((project.root / folder / "runs").glob("*/run.json"))
