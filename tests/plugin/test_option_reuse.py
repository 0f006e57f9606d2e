"""--scanproof-strict measures; --scanproof-reuse allows what an earlier session measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scanproof.evaluation.request import Settings, session_cache
from scanproof.evaluation.store import CHECKSUMS
from tests.support.embedded_session import embedded
from tests.support.small_project import Project


@pytest.mark.parametrize(
    ("arguments", "fresh"),
    [
        ((), False),
        (("--scanproof-strict",), True),
        (("--scanproof-strict", "--scanproof-reuse"), False),
        (("--scanproof-reuse",), False),
        (("--scanproof-fresh",), True),
    ],
)
def test_strict_asks_for_fresh_numbers_unless_reuse_is_asked_for(
    project: Project, arguments: tuple[str, ...], fresh: bool
) -> None:
    project.document(models=("one",))
    project.run(*arguments)
    assert [job[3] for job in project.jobs()] == [fresh]


@pytest.mark.parametrize("way", ["ini", "environment"])
def test_reuse_has_its_twins(project: Project, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(models=("one",))
    if way == "ini":
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_reuse = true\nscanproof_strict = true\n")
    else:
        monkeypatch.setenv("SCANPROOF_REUSE", "1")
    project.run("--scanproof-strict")
    assert [job[3] for job in project.jobs()] == [False]


def test_fresh_and_reuse_contradict_each_other(project: Project) -> None:
    result = project.run("--scanproof-fresh", "--scanproof-reuse")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--scanproof-fresh and --scanproof-reuse contradict each other*"])


def test_a_strict_session_does_not_believe_the_store_and_says_what_it_reuses(tmp_path: Path) -> None:
    """A finished evaluation says that everything is right; tonight's strict session measures all the same."""
    select = ("-k", "mamba1-tiny and piqa")
    first, _ = embedded(tmp_path, *select)
    (entry,) = (path.parent for path in tmp_path.glob(f"??/*/{CHECKSUMS}"))
    night, shown = embedded(tmp_path, *select, "--scanproof-strict")
    assert [record.reused for record in night.records] == [False, False]
    assert "1 jobs: 1 evaluated, 0 reused" in shown
    assert json.loads((entry / "entry.json").read_bytes())["session"] == night.id
    assert not session_cache(tmp_path, night.id).exists()
    again, shown = embedded(tmp_path, *select, "--scanproof-strict", "--scanproof-reuse")
    assert [record.reused for record in again.records] == [True, True]
    (evaluation,) = again.evaluations
    assert evaluation.session == night.id != first.id
    assert f"reused from {night.id}, measured {evaluation.measured}: embedded-mamba1-tiny-0shot" in shown


def test_a_fresh_session_has_caches_of_its_own(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, mirror=None, fresh=False, timeout=None, session="tonight")
    fresh = Settings(store=tmp_path, mirror=None, fresh=True, timeout=None, session="tonight")
    assert settings.cache == tmp_path / "cache"
    assert fresh.cache == session_cache(tmp_path, "tonight") != settings.cache
