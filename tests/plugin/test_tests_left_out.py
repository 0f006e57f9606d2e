"""Tests that a plugin or a conftest.py takes away, or that a call passes over, without a word: no strict green."""

from __future__ import annotations

import os

import pytest

TESTS = "def test_kernel(): assert False\n\ndef test_own(): pass\n"
NOT_GREEN = "not green under --scanproof-strict: "
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])


@WORKERS
def test_a_test_that_a_plugin_takes_away_unsaid_fails_a_strict_session(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=TESTS)
    taken = "def pytest_collection_modifyitems({arguments}):\n    taken = items.pop(0)\n{then}"
    pytester.makeconftest(taken.format(arguments="items", then=""))
    result = pytester.runpytest_subprocess("--scanproof-strict", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 tests were collected and are gone: test_it.py::test_kernel*"])
    said = "    config.hook.pytest_deselected(items=[taken])\n"
    pytester.makeconftest(taken.format(arguments="items, config", then=said))
    assert pytester.runpytest_subprocess("--scanproof-strict", *workers).ret == pytest.ExitCode.OK


LEFT_OUT = {
    "before others look": (
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def pytest_collection_modifyitems(items):\n    del items[0]\n    return (yield)\n",
        "*/inner/test_inner.py::test_inner",
    ),
    "after they have looked": (
        "def pytest_collection_finish(session):\n    del session.items[0]\n", "*/inner/test_inner.py::test_inner"
    ),
    "by its file": ("collect_ignore = ['test_own.py']\n", "*/kernels/test_own.py"),
    "by a hook": (
        "def pytest_ignore_collect(collection_path): return collection_path.name == 'test_own.py' or None\n",
        "*/kernels/test_own.py",
    ),
    "by its folder": ("collect_ignore_glob = ['inner*']\n", "*/kernels/inner"),
}  # fmt: skip


@pytest.mark.parametrize("how", LEFT_OUT)
def test_a_test_that_a_conftest_leaves_out_unsaid_fails_a_strict_session(pytester: pytest.Pytester, how: str) -> None:
    conftest, name = LEFT_OUT[how]
    folder = pytester.mkdir("kernels")
    (folder / "inner").mkdir()
    (folder / "inner" / "test_inner.py").write_text("def test_inner(): pass\n")
    (folder / "test_own.py").write_text("def test_left_out(): pass\ndef test_own(): pass\n")
    (folder / "conftest.py").write_text(conftest)
    pytester.makepyfile(test_it="def test_it(): pass")
    arguments = "kernels", "test_it.py"
    result = pytester.runpytest_subprocess("--scanproof-strict", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 tests were collected and are gone: *{name.removeprefix('*/')}*"])
    if "::" not in name:
        ignored = f"--ignore={name.removeprefix('*/')}"
        assert pytester.runpytest_subprocess("--scanproof-strict", ignored, *arguments).ret == pytest.ExitCode.OK


CALLS = {
    "from a folder beside it": ("build", ("../suite",)),
    "there and back": (".", ("./suite/../suite",)),
    "as a package": (".", ("--pyargs", "suite")),
    "by its absolute path": ("build", ("ROOT/build/../suite",)),
}


@pytest.mark.parametrize("how", CALLS)
def test_a_test_that_is_passed_over_is_missed_however_the_call_names_its_folder(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    where, arguments = CALLS[how]
    pytester.mkdir("build")
    folder = pytester.mkpydir("suite")
    for name in ("own", "other"):
        (folder / f"test_{name}.py").write_text("def test_it(): pass\n")
    (folder / "conftest.py").write_text(
        "def pytest_ignore_collect(collection_path): return collection_path.name == 'test_own.py' or None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.chdir(pytester.path / where)
    call = [argument.replace("ROOT", str(pytester.path)) for argument in arguments]
    result = pytester.runpytest_subprocess("--scanproof-strict", *call)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{NOT_GREEN}1 tests were collected and are gone: *suite/test_own.py;*"])
    if how != "as a package":
        ignored = f"--ignore={call[0]}/../suite/test_own.py", f"--ignore-glob={call[0]}/../*/test_own*"
        for option in ignored:
            assert pytester.runpytest_subprocess("--scanproof-strict", option, *call).ret == pytest.ExitCode.OK


def test_what_lies_beside_the_files_of_a_call_may_be_passed_over(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_it(): pass\ndef test_b(): pass", test_more="def test_more(): pass")
    pytester.makeconftest("collect_ignore = ['test_more.py']\n")
    for call in ("test_it.py", "test_it.py::test_it"):
        assert pytester.runpytest_subprocess("--scanproof-strict", call).ret == pytest.ExitCode.OK
