"""A comparison that is due and is not made fails its session, whatever kept it from being made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scanproof.record import find_run
from tests.support.small_project import GOOD, Project

STRICT = "--scanproof-strict"
WRONG = [("arc_easy", "acc", 0.501, 2376), *GOOD[1:]]
"""Within what is allowed against print; other answers than those that are recorded."""


def flip_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture
def wrong(project: Project) -> Project:
    """A stand-in that answers otherwise than is recorded."""
    project.document(suite="embedded", models=("one",))
    project.answer(WRONG)
    return project


def outcomes(project: Project) -> list[str]:
    run = project.latest_run()["records"]
    assert isinstance(run, list)
    return [record["outcome"] for record in run]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda _: b"", flip_bit],
    ids=["cut", "emptied", "one bit"],
)
def test_damaged_answers_hide_no_other_answer(wrong: Project, damage: Callable[[bytes], bytes]) -> None:
    path = wrong.root / "expected" / "900-test" / "one.answers.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    result = wrong.run()
    result.assert_outcomes(failed=3)
    assert outcomes(wrong) == ["COMPARISON_MISSING"] * 3
    result.stdout.fnmatch_lines(["*one.answers.jsonl.gz: *", "*restore it*"])


def test_another_version_in_the_document_switches_no_comparison_off(wrong: Project) -> None:
    path = wrong.root / "expected" / "900-test" / "document.yaml"
    text = path.read_text()
    path.write_text(text.replace("version: 0.4.13", "version: 0.4.12"))
    assert path.read_text() != text
    assert wrong.run().ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(wrong).count("CHANGED") == 2


def test_a_hook_that_skips_a_stand_in_is_an_error_in_every_session(project: Project) -> None:
    project.document(suite="embedded", models=("one",))
    (project.root / "no_machine.py").write_text(
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def pytest_scanproof_evaluate(job):\n    yield\n    pytest.skip('no machine')\n"
    )
    result = project.run("-p", "no_machine")
    result.assert_outcomes(errors=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project) == ["ERROR"] * 3


SKIPPING = "\ndef pytest_collection_modifyitems(items):\n    for item in items: item.add_marker(pytest.mark.skip)\n"


@pytest.mark.parametrize(
    ("option", "conftest", "said"),
    [
        ("--setup-plan", "", "3 of 3 selected numbers have no verdict: one-*"),
        ("-v", SKIPPING, "3 of 3 numbers are NOT_RUN: one-*"),
    ],
    ids=["only planned", "skipped by a mark"],
)
def test_published_numbers_that_were_not_compared_fail_a_strict_session(
    project: Project, option: str, conftest: str, said: str
) -> None:
    project.document(models=("one",))
    with (project.root / "conftest.py").open("a") as file:
        file.write(conftest)
    result = project.run(STRICT, option)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"not green under {STRICT}: {said}"])


def test_a_limit_in_an_expected_file_compares_nothing_and_fails_a_strict_session(project: Project) -> None:
    path = project.document(models=("one",)) / "one.yaml"
    path.write_text(path.read_text().replace("  batch_size: 8\n", "  batch_size: 8\n  limit: 3\n"))
    project.run().assert_outcomes(skipped=3)
    assert outcomes(project) == ["NOT_COMPARABLE"] * 3
    result = project.run(STRICT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"not green under {STRICT}: 900-one-0shot was limited to the first 3 documents*"])


@pytest.mark.parametrize("strict", [(), (STRICT,)], ids=["not strict", "strict"])
def test_a_mark_that_nothing_has_records_nothing(project: Project, strict: tuple[str, ...]) -> None:
    project.document(models=("one",))
    assert project.run().ret == pytest.ExitCode.OK
    runs = project.root / ".scanproof" / "runs"
    measured, count = find_run(runs, "latest"), len(list(runs.iterdir()))
    assert project.run("-m", "embeded", *strict).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert (find_run(runs, "latest"), len(list(runs.iterdir()))) == (measured, count)
