"""Under --scanproof-strict what decides is what its source says, whoever sets a constant or replaces a function."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

from scanproof.history import new_baseline, run_failures
from scanproof.record import read_run
from tests.support.small_project import GOOD, Project

WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
BAD = [["arc_easy", "acc", 0.2, 2376], *GOOD[1:]]
SAID = "not green under --scanproof-strict: * names of scanproof are not what its source says: *{}*"
TOLERANCE = "scanproof.numbers.verdict.tolerance"
OUTCOME = "scanproof.numbers.verdict.outcome"
ALWAYS = {
    "a constant": ("import scanproof.kernels.criterion as c\nc.ATOL = 100", "scanproof.kernels.criterion.ATOL"),
    "a function": (f"import {TOLERANCE} as t\nt.noisy = t._judge\nt._judge = lambda *a, **k: t.noisy(*a, **k)",
                   f"{TOLERANCE}._judge"),
    "the code of a function": (
        f"import {TOLERANCE} as t\ndef more(*arguments, **named): return None\n"
        "t._judge_known.__code__ = more.__code__", f"{TOLERANCE}._judge_known"),
    "a method": (
        f"import {OUTCOME} as o\no.Outcome.needs_triage = property(lambda self: False)", f"{OUTCOME}.Outcome"),
    "what an outcome means": (
        f"import {OUTCOME} as o\no.Outcome.OUT_OF_TOLERANCE.meaning = o.Meaning.GOOD", f"{OUTCOME}.Outcome"),
    "a default": (
        f"import {TOLERANCE} as t\nt.compare.__kwdefaults__ = {{'documents': 1}}", f"{TOLERANCE}.compare"),
    "a name that hides a builtin": (f"import {TOLERANCE} as t\nt.abs = lambda value: 0.0", f"{TOLERANCE}.abs"),
    "whether kernels ran": (
        "from scanproof.evaluation import kernels_ran as k\nk.require_kernels = lambda *a, **n: None",
        "scanproof.evaluation.kernels_ran.require_kernels"),
    "how files are read": (
        "from scanproof import files\nfiles.is_folder = lambda path, own=files.is_folder: own(path)",
        "scanproof.files.is_folder"),
    "the watch of skips": (
        "from scanproof.plugin import kernel_evidence as k\nk.is_not_allowed = lambda report: False",
        "scanproof.plugin.kernel_evidence.is_not_allowed"),
}  # fmt: skip


def judge_is_changed(project: Project, plugin: str, name: str, *options: str) -> pytest.RunResult:
    """Run strictly with a plugin that changes the judge; the session has to say that name."""
    (project.root / "plug.py").write_text(plugin)
    result = project.run("-p", "plug", "--scanproof-strict", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([SAID.format(name)])
    return result


@pytest.mark.parametrize("what", ALWAYS)
def test_a_judge_that_is_changed_fails_a_strict_session(project: Project, what: str) -> None:
    project.document(models=("one",))
    judge_is_changed(project, *ALWAYS[what])
    run = read_run(project.newest_file)
    assert ALWAYS[what][1] in "".join(run_failures.list_failures(run))
    assert any(ALWAYS[what][1] in why for why in new_baseline.why_not_good(run)), "it would be the measure of others"


@WORKERS
def test_outcomes_that_mean_something_else_do_not_make_a_failure_pass(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.document(models=("one",))
    project.answer(BAD)
    plugin = f"""
import pytest
import {TOLERANCE} as t
from {OUTCOME} import Outcome
from dataclasses import replace

judge = t.compare

@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    def compare(*given, **named):
        return replace(judge(*given, **named), outcome=Outcome.REPRODUCED)
    monkeypatch.setattr(t, "compare", compare)
"""
    result = judge_is_changed(project, plugin, f"{TOLERANCE}.compare", *workers)
    result.assert_outcomes(passed=3)


@WORKERS
def test_a_report_that_has_lost_what_was_seen_hides_no_change(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """The change is there while the test runs, and taken back before the session ends."""
    pytester.makepyfile(test_it="def test_it(): pass")
    pytester.makeconftest("""
        import pytest
        from scanproof.kernels import criterion

        @pytest.fixture(autouse=True)
        def lenient(monkeypatch):
            monkeypatch.setattr(criterion, "ATOL", {})

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_makereport():
            report = yield
            report.user_properties = []
            return report
    """)
    result = pytester.runpytest_subprocess("--scanproof-strict", *workers)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([SAID.format("scanproof.kernels.criterion.ATOL")])


def test_what_a_replaced_fixture_changes_while_it_judges_is_seen(project: Project) -> None:
    project.document(models=("one",))
    project.answer(BAD)
    conftest = f"""
from unittest import mock
from dataclasses import replace
from scanproof.plugin import fixtures
import {TOLERANCE} as t
from {OUTCOME} import Outcome

judge = t.compare

@pytest.fixture
def scanproof_judged(request, scanproof_value, scanproof_evaluation):
    def compare(*given, **named):
        return replace(judge(*given, **named), outcome=Outcome.REPRODUCED)
    with mock.patch.object(t, "compare", compare):
        return fixtures.scanproof_judged.__wrapped__(request, scanproof_value, scanproof_evaluation)
"""
    with (project.root / "conftest.py").open("a") as file:
        file.write(conftest)
    result = judge_is_changed(project, "", f"{TOLERANCE}.compare", "--scanproof-engine=plain")
    result.assert_outcomes(passed=3)


def test_without_strict_nothing_is_asked(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "plug.py").write_text(ALWAYS["a constant"][0])
    assert project.run("-p", "plug").ret == pytest.ExitCode.OK


def test_every_module_of_the_judge_is_what_its_source_says() -> None:
    """In a process of its own, where nobody has patched anything: with everything loaded, nothing is a change."""
    program = f"import {__name__} as here; here.load_all(); here.say_changed()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("[]\n", 0), result.stderr


def load_all() -> None:
    from scanproof.plugin import own_source

    for room in own_source.JUDGE:
        module = importlib.import_module(room)
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{room}."):
            if not own_source.is_inside(found.name, own_source.OTHERS):
                importlib.import_module(found.name)


def say_changed() -> None:
    from scanproof.plugin import own_source

    watch = own_source.JudgeWatch()
    assert len(own_source.list_judges()) > 100
    print(sorted(watch.list_changed() | watch.list_replaced()))
