"""A process that runs tests and dies: an error of the test that it was in, and of no other."""

from __future__ import annotations

import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from scanproof.plugin.own_process_child import Event
from scanproof.plugin.own_process_running import Running
from tests.support.own_process import run

DEATHS = """
def die(how):
    os.write(2, f"the last words of {how}\\n".encode())
    if how == "exit": os._exit(0)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop": pytest.exit("enough")
    os.abort()

@pytest.fixture
def guard(request):
    if "dies[setup]" in request.node.name: die("setup")
    yield
    if "dies[teardown]" in request.node.name: die("teardown")

def test_before(): pass

@pytest.mark.own_process(NAME)
@pytest.mark.parametrize("how", ["first", "exit", "kill", "stop", "abort", "setup", "passes", "teardown", "last"])
def test_dies(guard, how, request):
    if how in ("setup", "teardown", "first", "passes", "last"): return
    # A test that dies is an error, whatever it was expected to do.
    request.applymarker(pytest.mark.xfail(strict=True))
    die(how)

def test_after(): pass
"""
ENDS = {
    "exit": "ended with exit code 0, before the test was over",
    "kill": "was killed by SIGKILL",
    "stop": "ended with exit code 2",
    "abort": "was killed by SIGABRT",
    "setup": "was killed by SIGABRT",
    "teardown": "was killed by SIGABRT",
}


@pytest.mark.parametrize("name", ["", "'all'"], ids=["each", "together"])
def test_a_process_that_dies_is_an_error_of_its_test_and_of_no_other(pytester: pytest.Pytester, name: str) -> None:
    result = run(pytester, DEATHS.replace("NAME", name), "--junitxml=out.xml")
    # The test whose fixture died afterwards had passed, as with pytest.
    result.assert_outcomes(passed=6, errors=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    cases = {str(case.get("name")): case for case in ET.parse(pytester.path / "out.xml").iter("testcase")}
    said = {name[10:-1]: "".join(str(each.text) for each in case.iter("error")) for name, case in cases.items()}
    for how, end in ENDS.items():
        assert f"the process of this test {end}" in said[how]
        assert f"the last words of {how}" in said[how]
    assert {text for how, text in said.items() if how not in ENDS} == {""}


def test_a_test_that_was_over_is_not_blamed_for_the_one_after_it(tmp_path: Path) -> None:
    """The session may come to read of a test only when the process has died in the next one."""
    command = [sys.executable, "-c", "import os; os.abort()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    process.wait()
    told = tmp_path / "told"
    events = [Event("started", 0, {}), Event("finished", 0, {}), Event("started", 1, {})]
    told.write_bytes(b"".join(pickle.dumps(event) for event in events))
    running = Running(process, tmp_path, told.open("rb"), ("over", "dies"), [[], []])
    for name in ("over", "dies"):
        running.events(name)
    assert running.why_ended_early("over") is None
    assert "killed by SIGABRT, an abort in native code, before the test" in str(running.why_ended_early("dies"))
    running.close()


def test_a_process_that_ends_badly_after_its_last_test_is_an_error(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.own_process
def test_own(): atexit.register(os._exit, 7)
"""
    result = run(pytester, text)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the process of this test ended with exit code 7, after its last test*"])


@pytest.mark.parametrize("mark", ["own_process", 'own_process("all")'])
def test_a_process_that_cannot_begin_says_why_for_every_test(pytester: pytest.Pytester, mark: str) -> None:
    pytester.makeconftest("""
def pytest_configure(config):
    if config.getoption("--scanproof-own-process", None):
        open("begun", "a").write("x")
        raise ImportError("libcuda is gone")
""")
    text = f"""
@pytest.mark.{mark}
@pytest.mark.parametrize("n", range(3))
def test_own(n): pass

def test_after(): pass
"""
    result = run(pytester, text, "-ra")
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*without beginning the test*", "*libcuda is gone*"])
    assert len((pytester.path / "begun").read_text()) == (1 if "all" in mark else 3)
