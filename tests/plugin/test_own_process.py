"""Tests that run in a process of their own: what the session reports of them, and of a process that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.own_process import COMMON, run
from tests.support.small_jobs import is_running, wait_until

OWN = "@pytest.mark.own_process\n"


def pids(folder: Path) -> dict[str, str]:
    return dict(line.split() for line in (folder / "pids").read_text().splitlines())


def test_what_a_test_tells_is_reported_as_if_it_had_run_in_the_session(pytester: pytest.Pytester) -> None:
    text = """
    def test_before(pid): pass

    @pytest.mark.own_process
    class TestOwn:
        def test_passes(self, pid, record_property):
            record_property("figure", 1.5)
            record_property("list", [{"a": (1, Path("x"))}])
        def test_fails(self, pid):
            print("said in Python")
            assert {"left": 1} == {"left": 2}
        def test_skips(self, pid): pytest.skip("a reason")
        @pytest.mark.xfail(reason="known", strict=True)
        def test_xfails(self, pid): assert False
        @pytest.mark.xfail(reason="known", strict=True)
        def test_xpasses(self, pid): pass
        def test_warns(self, pid): warnings.warn("a warning of the test", DeprecationWarning)
        @pytest.fixture
        def broken(self): raise ValueError("of a fixture")
        def test_error(self, broken): pass

    def test_after(pid): pass
    """
    import textwrap

    result = run(pytester, textwrap.dedent(text), "-ra", "--junitxml=out.xml")
    result.assert_outcomes(passed=4, failed=2, skipped=1, xfailed=1, errors=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*said in Python*", "*DeprecationWarning: a warning of the test*", "SKIPPED*a reason", "XFAIL*known*"]
    )
    result.stdout.fnmatch_lines(["*{'left': 1} == {'left': 2}*"])
    found = pids(pytester.path)
    own = {name: pid for name, pid in found.items() if name not in ("test_before", "test_after")}
    assert found["test_before"] == found["test_after"]
    assert len({found["test_before"], *own.values()}) == 1 + len(own) == 7
    cases = {case.get("name"): case for case in ET.parse(pytester.path / "out.xml").iter("testcase")}
    assert len(cases) == 9
    kept = {each.get("name"): each.get("value") for each in cases["test_passes"].iter("property")}
    assert kept == {"figure": "1.5", "list": "[{'a': (1, 'x')}]"}


def test_a_test_in_a_package_is_run(pytester: pytest.Pytester) -> None:
    """The suite's kernel tests lie in folders with an `__init__.py`: none of them could be run on the first GPU."""
    folder = pytester.mkpydir("kernels")
    (folder / "test_rows.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.own_process\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_row(n): assert n == 1\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "kernels")
    result.assert_outcomes(passed=1, failed=1)


def test_tests_of_one_name_share_a_process_in_the_order_of_the_session(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize("n", [2, 1])
@pytest.mark.parametrize("row", "ab")
def test_row(pid, row, n): pass

def pytest_collection_modifyitems(items): pass
"""
    pytester.makeconftest("""
import pytest
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.callspec.params["n"])
    for item in items:
        item.add_marker(pytest.mark.own_process(f"pass {item.callspec.params['n']}"))
""")
    result = run(pytester, text, "-v")
    result.assert_outcomes(passed=4)
    found = pids(pytester.path)
    assert list(found) == ["test_row[a-1]", "test_row[b-1]", "test_row[a-2]", "test_row[b-2]"]
    first, second = found["test_row[a-1]"], found["test_row[a-2]"]
    assert (found["test_row[b-1]"], found["test_row[b-2]"]) == (first, second)
    assert first != second


def test_the_options_of_the_session_are_those_of_the_process(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = some: of these tests\n")
    text = """
@pytest.mark.some
@pytest.mark.own_process
def test_own(request, tmp_path):
    option = request.config.option
    assert (option.markexpr, option.keyword, option.verbose) == ("some", "own or other", 2)
    assert request.config.getoption("--scanproof-store") is not None
    warnings.warn("an error by the command line", UserWarning)

@pytest.mark.some
def test_other(tmp_path): pass

@pytest.mark.own_process
def test_unselected_own(): raise AssertionError
"""
    given = ["-vv", "-m", "some", "-k", "own or other", "-W", "error", "--scanproof-store=x", "--basetemp=tmp", "-s"]
    result = run(pytester, text, *given)
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*UserWarning: an error by the command line*"])
    assert (pytester.path / "tmp").is_dir()


def test_the_session_stops_at_the_first_failure_and_ends_the_process(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.own_process("all")
@pytest.mark.parametrize("n", range(3))
def test_own(n, pid): assert n == 0
"""
    result = run(pytester, text, "-x")
    result.assert_outcomes(passed=1, failed=1)


def test_only_the_failed_ones_again(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.own_process("all")
@pytest.mark.parametrize("n", range(3))
def test_own(n, pid): assert n != 1
"""
    pytester.makepyfile(COMMON + text)
    pytester.runpytest_subprocess().assert_outcomes(passed=2, failed=1)
    pytester.runpytest_subprocess("--lf").assert_outcomes(failed=1)


@pytest.mark.parametrize("dist", ["load", "loadgroup", "worksteal"])
def test_on_workers_of_xdist(pytester: pytest.Pytester, dist: str) -> None:
    text = """
@pytest.mark.own_process
@pytest.mark.xdist_group("g")
@pytest.mark.parametrize("n", range(4))
def test_own(n, pid, record_property):
    record_property("n", n)
    if n == 1: os.abort()
    assert n != 2

@pytest.mark.parametrize("n", range(4))
def test_other(n, pid): pass
"""
    result = run(pytester, text, "-n", "2", "--dist", dist, "--junitxml=out.xml")
    result.assert_outcomes(passed=6, failed=1, errors=1)
    names = [case.get("name") for case in ET.parse(pytester.path / "out.xml").iter("testcase")]
    assert len(names) == 8
    found = pids(pytester.path)
    assert len(set(found.values())) == 3 + len({found[name] for name in found if "other" in name})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_the_process_does_not_outlive_the_session(pytester: pytest.Pytester, sent: signal.Signals) -> None:
    pytester.makepyfile(
        COMMON
        + """
@pytest.mark.own_process
def test_own():
    import time
    (HERE / "new").write_text(str(os.getpid()))
    (HERE / "new").rename(HERE / "pid")
    time.sleep(1e6)
"""
    )
    file = pytester.path / "pid"
    process = subprocess.Popen([sys.executable, "-m", "pytest"], cwd=pytester.path, stdout=subprocess.PIPE, text=True)
    assert wait_until(lambda: file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    pid = int(file.read_text())
    assert is_running(pid)
    os.kill(process.pid, sent)
    out, _ = process.communicate()
    assert wait_until(lambda: not is_running(pid))
    if sent == signal.SIGINT:
        assert process.returncode == pytest.ExitCode.INTERRUPTED
        assert "KeyboardInterrupt" in out
