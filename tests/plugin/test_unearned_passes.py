"""A failure that a plugin or a conftest.py makes a pass of, or a pass that proves nothing, is not green."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanproof import record
from scanproof.history import run_failures
from tests.support.small_project import Project

NUMERICS = Path(__file__).parents[1] / "kernels" / "test_numerics.py"
TESTS = """
import pytest

@pytest.mark.parametrize("scanproof_place", ["interpreter"])
def test_kernel(scanproof_place): assert False

def test_own(): pass
"""
CHANGED_REPORT = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    if report.failed:
        {change}
    return report
"""
NOT_GREEN = "not green under --scanproof-strict: "
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])


@WORKERS
def test_a_failure_whose_report_says_passed_fails_a_strict_session(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest(CHANGED_REPORT.format(change="report.outcome = 'passed'"))
    result = pytester.runpytest_subprocess("--scanproof-strict", *workers)
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 kernel tests are*: test_it.py::test_kernel*: it raised AssertionError"])


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_an_error_beside_the_call_whose_report_says_passed_fails_a_strict_session(
    pytester: pytest.Pytester, phase: str
) -> None:
    body = {"setup": "assert False; yield", "teardown": "yield; assert False"}[phase]
    fixture = f"\n@pytest.fixture(autouse=True)\ndef around(): {body}\n"
    pytester.makepyfile(test_it=TESTS.replace("assert False", "pass") + fixture)
    pytester.makeconftest(CHANGED_REPORT.format(change="report.outcome = 'passed'"))
    result = pytester.runpytest_subprocess("--scanproof-strict", "-k", "test_kernel")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 kernel tests are*: test_it.py::test_kernel*: it raised AssertionError"])


@WORKERS
@pytest.mark.parametrize("strict", [(), ("--scanproof-strict",)], ids=["not strict", "strict"])
def test_failed_tests_beside_an_exit_code_of_zero_fail_the_session(
    pytester: pytest.Pytester, workers: tuple[str, ...], strict: tuple[str, ...]
) -> None:
    """pytest does not count a failed report that says that it was expected."""
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest(CHANGED_REPORT.format(change="report.wasxfail = 'flaky'"))
    result = pytester.runpytest_subprocess(*workers, *strict)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green*: 1 tests failed: test_it.py::test_kernel*"])


AS_IF = ("-p", "tests.support.as_if_on_gpu", "-m", "gpu", "-k", "rmsnorm_fn-no_gate-float16")


@pytest.mark.parametrize(
    ("conftest", "change"),
    [
        ("", ("    scanproof_check_kernel(scanproof_case)", "    return")),
        (
            "",
            (
                "    scanproof_check_kernel(scanproof_case)",
                "    import contextlib\n"
                "    with contextlib.suppress(BaseException): scanproof_check_kernel(scanproof_case)",
            ),
        ),
        ("import pytest\n@pytest.fixture\ndef scanproof_check_kernel(): return lambda case: None\n", ("", "")),
        (
            "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem): return True\n",
            ("", ""),
        ),
    ],
    ids=["it returns before", "it catches", "the check is replaced", "it is not called"],
)
def test_a_case_that_was_not_compared_fails_a_strict_session(
    pytester: pytest.Pytester, conftest: str, change: tuple[str, str]
) -> None:
    text = NUMERICS.read_text()
    assert change[0] in text
    pytester.makepyfile(test_numerics=text.replace(*change))
    pytester.makeconftest(conftest)
    result = pytester.runpytest_subprocess("--scanproof-strict", *AS_IF)
    assert result.parseoutcomes()["passed"] >= 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}* kernel tests are reported as passed and are not: *was not compared*"])


BARE = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    report.user_properties = []
    return report
"""
UNPROVED = {
    "nothing is compared": "@pytest.fixture\ndef scanproof_check_kernel(): return lambda case: None\n",
    "it is skipped": (
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items: 'test_error' in item.name and item.add_marker(pytest.mark.skip(reason='slow'))\n"
    ),
}


@WORKERS
@pytest.mark.parametrize("how", UNPROVED)
def test_a_report_without_what_was_noted_proves_nothing(
    pytester: pytest.Pytester, how: str, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_numerics=NUMERICS.read_text(),
        test_more="import pytest\n@pytest.mark.gpu\ndef test_rmsnorm_fn_no_gate_float16(): pass",
    )
    pytester.makeconftest(BARE + UNPROVED[how])
    call = "-p", "tests.support.as_if_on_gpu", "-m", "gpu", "-k", "rmsnorm_fn-no_gate-float16 or test_more", *workers
    assert pytester.runpytest_subprocess(*call).ret == pytest.ExitCode.OK
    result = pytester.runpytest_subprocess("--scanproof-strict", *call)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"{NOT_GREEN}[13] kernel tests have a report that lost what scanproof noted with it: *"]
    )


RERUN = """
import pytest

TRIES = []

def pytest_runtest_protocol(item, nextitem):
    from _pytest.runner import runtestprotocol
    for attempt in range(2):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        for report in reports:
            if failed and attempt == 0: report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not failed: return True
    return True

@pytest.fixture
def tries(): return TRIES
"""


def test_a_test_that_passes_when_it_is_run_again_fails_a_strict_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_flaky(tries):\n    tries.append(1)\n    assert len(tries) > 1\n")
    pytester.makeconftest(RERUN)
    result = pytester.runpytest_subprocess("--scanproof-strict")
    assert result.parseoutcomes()["passed"] == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 tests were run again until they passed*: test_it.py::test_flaky;*"])


PARTS = """
import unittest

def test_fixture(subtests):
    for number in range(3):
        with subtests.test(number=number): assert number < {most}

class TestOfUnittest(unittest.TestCase):
    def test_method(self):
        for number in range(3):
            with self.subTest(number=number): assert number < {most}
"""


@WORKERS
def test_a_test_of_several_parts_runs_once(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytest.importorskip("pytest", minversion="9", reason="its fixture subtests")
    pytester.makepyfile(test_it=PARTS.format(most=3))
    assert pytester.runpytest_subprocess("--scanproof-strict", *workers).ret == pytest.ExitCode.OK
    pytester.makepyfile(test_it=PARTS.format(most=2))
    pytester.makeconftest(CHANGED_REPORT.format(change="report.wasxfail = 'flaky'"))
    assert pytester.runpytest_subprocess("--scanproof-strict", *workers).ret == pytest.ExitCode.TESTS_FAILED


TWICE = {"each worker": ("--dist", "each", "--tx", "2*popen"), "named twice": ("--keep-duplicates", "test_it.py")}


@pytest.mark.parametrize("how", TWICE)
def test_a_test_that_the_call_asks_for_twice_is_not_run_again(pytester: pytest.Pytester, how: str) -> None:
    pytester.makepyfile(test_it="def test_it(): pass\n")
    call = "--scanproof-strict", "test_it.py", *TWICE[how]
    result = pytester.runpytest_subprocess(*call)
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK
    pytester.makepyfile(test_it="def test_it(tries):\n    tries.append(1)\n    assert len(tries) % 2 == 0\n")
    pytester.makeconftest(RERUN)
    result = pytester.runpytest_subprocess(*call)
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 tests were run again until they passed*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("where", ["pytest_sessionstart", "pytest_collection_finish"])
def test_a_session_that_exits_before_its_tests_is_not_green(pytester: pytest.Pytester, where: str) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest(f"import pytest\ndef {where}(session): pytest.exit('no GPU', returncode=0)\n")
    assert pytester.runpytest_subprocess("--scanproof-strict").ret == pytest.ExitCode.TESTS_FAILED


HIDDEN = {
    "a report without its properties": (
        CHANGED_REPORT.format(change="report.outcome, report.longrepr, report.user_properties = 'passed', None, []"),
        "1 kernel tests are reported as passed and are not: test_it.py::test_kernel*: it raised AssertionError",
    ),
    "an error that is caught": (
        "import pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_pyfunc_call():\n    try: yield\n"
        "    except BaseException: pass\n    return True\n",
        "1 kernel tests are reported as passed and are not: test_it.py::test_kernel*: it raised AssertionError",
    ),
    "a function that is none": (
        "def pytest_pycollect_makeitem(name): return [] if name == 'test_kernel' else None\n",
        "1 tests were collected and are gone: test_it.py::test_kernel;*",
    ),
    "a file that is none": (
        "import pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_collect_file(file_path):\n"
        "    made = yield\n    return [] if file_path.name == 'test_it.py' else made\n",
        "1 tests were collected and are gone: test_it.py;*",
    ),
    "a file that breaks": (
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\ndef pytest_make_collect_report():\n"
        "    report = yield\n    if report.nodeid == 'test_it.py':\n"
        "        report.outcome, report.longrepr, report.result = 'passed', None, []\n    return report\n",
        "1 tests were collected and are gone: test_it.py;*",
    ),
    "a file that is skipped": ("", "1 tests were collected and are gone: test_it.py (Skipped: could not import*"),
}  # fmt: skip


@WORKERS
@pytest.mark.parametrize("how", HIDDEN)
def test_what_a_conftest_hides_fails_a_strict_session(
    pytester: pytest.Pytester, how: str, workers: tuple[str, ...]
) -> None:
    conftest, said = HIDDEN[how]
    broken = {"a file that breaks": "raise ImportError\n"}.get(how, "")
    skipped = "pytest.importorskip('no_such_module')\n" if how == "a file that is skipped" else ""
    pytester.makepyfile(test_it=f"import pytest\n{broken}{skipped}{TESTS}", test_more="def test_more(): pass")
    pytester.makeconftest(conftest)
    result = pytester.runpytest_subprocess("--scanproof-strict", *workers)
    assert result.parseoutcomes().get("failed", 0) == 0
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}{said}"])


def test_what_a_test_in_a_process_of_its_own_raised_is_known_whatever_its_report_says(
    pytester: pytest.Pytester,
) -> None:
    marked = TESTS.replace("def test_kernel", "@pytest.mark.own_process\ndef test_kernel")
    pytester.makepyfile(test_it=marked)
    pytester.makeconftest(HIDDEN["a report without its properties"][0])
    result = pytester.runpytest_subprocess("--scanproof-strict")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}*test_it.py::test_kernel*: it raised AssertionError"])


@pytest.mark.parametrize("how", ["variable", "ini", "PYTEST_ADDOPTS"])
def test_strict_that_is_asked_for_otherwise_is_switched_off_by_nobody(
    pytester: pytest.Pytester, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=TESTS.replace("assert False", "pass"))
    if how == "variable":
        monkeypatch.setenv("SCANPROOF_STRICT", "1")
    elif how == "ini":
        pytester.makeini("[pytest]\nscanproof_strict = true\n")
    else:
        monkeypatch.setenv("PYTEST_ADDOPTS", "--scanproof-strict")
    assert pytester.runpytest_subprocess().ret == pytest.ExitCode.OK
    off = "import os, pytest\nos.environ['SCANPROOF_STRICT'] = '0'\n@pytest.hookimpl(tryfirst=True)\n"
    pytester.makeconftest(f"{off}def pytest_configure(config):\n    config.option.scanproof_strict = None\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a plugin or a conftest.py has switched --scanproof-strict off"])


def test_strict_is_switched_off_by_nobody(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS.replace("assert False", "pass"))
    hook = "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_configure(config):\n"
    pytester.makeconftest(f"{hook}    config.option.scanproof_strict = None\n")
    result = pytester.runpytest_subprocess("--scanproof-strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a plugin or a conftest.py has switched --scanproof-strict off"])
    setting = "from scanproof.plugin.session import session_of\ndef pytest_collection_finish(session):\n"
    pytester.makeconftest(f"{setting}    object.__setattr__(session_of(session.config).settings, 'strict', False)\n")
    result = pytester.runpytest_subprocess("--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green*: a plugin or a conftest.py changed scanproof's options"])


def test_a_session_in_which_nothing_passed_proves_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_never(scanproof_cannot_run): scanproof_cannot_run('too small')\n")
    result = pytester.runpytest_subprocess("--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}no test passed: nothing was proved"])


@pytest.mark.parametrize("part", ["controller", "latencies", "broken-device", "own-processes", "exit-code"])
def test_a_part_of_the_plugin_cannot_be_switched_off(pytester: pytest.Pytester, part: str) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess("-p", f"no:scanproof-{part}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*-p no:scanproof-{part} switches off a part of the plugin; -p no:scanproof all*"])


@WORKERS
def test_the_test_of_a_number_has_no_other_parameters(project: Project, workers: tuple[str, ...]) -> None:
    """Its number is found by the end of its id: with another parameter nothing that is due would be asked of it."""
    project.document(models=("one",))
    path = project.root / "test_published.py"
    test = "def test_published("
    assert path.read_text().count(test) == 1
    path.write_text("import pytest\n\n" + path.read_text().replace(test, f"{MORE}{test}attention, "))
    result = project.run("--scanproof-strict", *workers)
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*the test of a published number has no other parameters; leave out attention*"])


MORE = '@pytest.mark.parametrize("attention", ["eager"])\n'
OLD_EVALUATION = """
from dataclasses import replace

@pytest.fixture
def scanproof_evaluation(scanproof_evaluation): return replace(scanproof_evaluation, key="an older one")
"""


@pytest.mark.parametrize("strict", [(), ("--scanproof-strict",)], ids=["not strict", "strict"])
def test_a_verdict_on_another_evaluation_fails_the_session(project: Project, strict: tuple[str, ...]) -> None:
    project.document(models=("one",))
    conftest = project.root / "conftest.py"
    conftest.write_text("import pytest\n" + conftest.read_text() + OLD_EVALUATION)
    result = project.run(*strict)
    assert result.parseoutcomes() == {"passed": 3}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green*: 3 numbers are of an evaluation that this session does not have: one-*"])


def test_a_file_that_cannot_be_collected_is_in_a_run_that_is_not_good(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "test_broken.py").write_text("raise ImportError")
    assert project.run("--continue-on-collection-errors").ret != pytest.ExitCode.OK
    run = record.read_run(record.find_run(project.root / ".scanproof" / "runs", "latest"))
    assert any("test_broken.py" in why for why in run_failures.list_failures(run))
