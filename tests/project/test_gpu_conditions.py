"""A step of tools/gpu_check.sh counts under the conditions that it ran under, and under no others."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_check
import gpu_conditions
import gpu_results
import pytest
from gpu_steps import STEPS, Step

from tests.support.gpu_scripts import Check, check, of_python, report_gpu, results

__all__ = ["check"]

Conditions = dict[str, Any]


def as_if_before(folder: Path, change: Callable[[Conditions], object]) -> None:
    """Change the conditions of every step that is kept in the folders of work and results."""
    for place in (folder / "work", folder / "out"):
        path = place / "steps.json"
        kept = json.loads(path.read_text())
        for row in kept["steps"]:
            change(row["conditions"])
        path.write_text(json.dumps(kept))


def counting(folder: Path, name: str = "first") -> tuple[Path, Any]:
    """A green step, and the file that has a letter for each time it ran."""
    runs = folder / f"{name}.runs"
    return runs, of_python(name, f"open({str(runs)!r}, 'a').write('x')")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: kept.update(commit="0" * 40), "commit 0000000000"),
        (lambda kept: kept.update(commit=None), "no known commit"),
        (lambda kept: kept.update({"uncommitted changes": "other"}), "uncommitted changes"),
        (lambda kept: kept.update(files="other"), "files"),
        (lambda kept: kept["packages"].update(torch="0.1"), "packages"),
        (lambda kept: kept["installed files"].update(triton="other"), "installed files"),
        (lambda kept: kept.update(Python="2.7"), "Python"),
        (lambda kept: kept.clear(), "they were not kept"),
    ],
)
def test_what_is_green_under_other_conditions_is_run_again(
    change: Callable[[Conditions], object], said: str, check: Check, tmp_path: Path
) -> None:
    runs, step = counting(tmp_path)
    assert check([step])[0] == 0
    assert "first: done before, green" in check([step])[1]
    assert runs.read_text() == "x"
    as_if_before(tmp_path, change)
    code, output = check([step])
    assert code == 0
    assert f"first: green before, under other conditions ({said}" in output
    assert runs.read_text() == "xx"
    assert "first: done before, green" in check([step])[1]


@pytest.mark.parametrize(
    ("gpu", "said"), [({"name": "Another GPU"}, "GPU Made-up GPU"), ({"driver": "9"}, "driver 1.2")]
)
def test_another_gpu_or_driver_runs_it_again(gpu: dict[str, str], said: str, check: Check, tmp_path: Path) -> None:
    runs, step = counting(tmp_path)
    check([step])
    report_gpu(tmp_path / "bin", **gpu)
    assert f"first: green before, under other conditions ({said}" in check([step])[1]
    assert runs.read_text() == "xx"


def test_a_row_of_another_commit_is_no_row_of_this_night(check: Check, tmp_path: Path) -> None:
    _, first = counting(tmp_path)
    _, second = counting(tmp_path, "second")
    table = [first, second]
    check(table, "first")
    as_if_before(tmp_path, lambda kept: kept.update(commit="0" * 40))
    assert check(table, "second")[0] == 0
    page = (tmp_path / "out" / "summary.md").read_text()
    assert page.startswith("# green; not begun: first\n")
    assert "| first |" not in page
    assert "Not counted: first was green before, under other conditions (commit 0000000000)." in page
    with tarfile.open(tmp_path / "out" / "evidence.tar.gz") as packed:
        assert "second.log" in packed.getnames()
        assert "first.log" not in packed.getnames()
    assert "=== first" not in (tmp_path / "out" / "log.txt").read_text()


def test_what_there_is_no_time_to_run_again_is_not_green(check: Check, tmp_path: Path) -> None:
    _, step = counting(tmp_path)
    check([step])
    as_if_before(tmp_path, lambda kept: kept.update(commit="0" * 40))
    assert check([step], "--within", "5")[0] == 1
    assert (tmp_path / "out" / "summary.md").read_text().startswith("# nothing was run; not begun: first\n")


def test_of_two_folders_the_one_with_the_same_conditions_is_gone_on_from(check: Check, tmp_path: Path) -> None:
    runs, step = counting(tmp_path)
    check([step])
    (tmp_path / "out").rename(tmp_path / "earlier")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "steps.json").write_bytes((tmp_path / "earlier" / "steps.json").read_bytes())
    as_if_before(tmp_path, lambda kept: kept.update(commit="0" * 40))
    assert "first: done before, green" in check([step], "--earlier", str(tmp_path / "earlier"))[1]
    assert runs.read_text() == "x"


def test_what_is_about_the_machine_is_asked_at_each_call(check: Check, tmp_path: Path) -> None:
    runs, step = counting(tmp_path)
    for _ in range(2):
        check([replace(step, at_each_call=True)])
    assert runs.read_text() == "xx"
    assert [each.name for each in STEPS if each.at_each_call] == ["doctor"]


def test_the_expected_values_are_copied_again_at_each_call(tmp_path: Path) -> None:
    folder = gpu_check.expected_on_gpu(tmp_path / "expected")
    path = folder / "embedded" / "mamba1-tiny.yaml"
    right = path.read_text()
    path.write_text(right.replace('printed: "0.', 'printed: "0.1'))
    (folder / "latency").mkdir()
    (folder / "latency" / "made-up.json").write_text("{}")
    gpu_check.expected_on_gpu(folder, keep_latencies=True)
    assert path.read_text() == right
    assert (folder / "latency" / "made-up.json").exists()
    gpu_check.expected_on_gpu(folder)
    assert not (folder / "latency" / "made-up.json").exists()


def recording(folder: Path) -> Step:
    """A step that writes a baseline of latencies."""
    place = folder / "work" / "expected" / "latency" / "made-up.json"
    text = f"""
from pathlib import Path

def test_a():
    place = Path({str(place)!r})
    place.parent.mkdir(exist_ok=True)
    place.write_text("{{}}")
"""
    (folder / "test_first.py").write_text(text)
    tests = str(folder / "test_first.py"), "--scanproof-record-latency"
    return replace(of_python("first", ""), command=(), tests=tests)


def test_a_baseline_of_other_conditions_is_no_result(check: Check, tmp_path: Path) -> None:
    table = [recording(tmp_path), of_python("other", "")]
    check(table, "first")
    assert (tmp_path / "out" / "latency-made-up.json").exists()
    as_if_before(tmp_path, lambda kept: kept.update(commit="0" * 40))
    check(table, "other")
    assert not (tmp_path / "out" / "latency-made-up.json").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_results_that_count_keep_their_evidence(check: Check, tmp_path: Path, fresh: bool) -> None:
    """A machine that is lent for minutes begins with an empty folder of work."""
    table = [recording(tmp_path)]
    check(table)
    if fresh:
        shutil.rmtree(tmp_path / "work")
    assert "first: done before" in check(table)[1]
    assert (tmp_path / "out" / "latency-made-up.json").exists()
    with tarfile.open(tmp_path / "out" / "evidence.tar.gz") as packed:
        assert {"first.log", "first.xml", "expected/latency/made-up.json"} <= set(packed.getnames())


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_result_without_its_evidence_is_run_again(check: Check, tmp_path: Path, how: str) -> None:
    runs, step = counting(tmp_path)
    check([step])
    shutil.rmtree(tmp_path / "work")
    archive = tmp_path / "out" / "evidence.tar.gz"
    archive.write_bytes(archive.read_bytes()[:40]) if how == "cut" else archive.unlink()
    code, said = check([step])
    assert code == 0
    assert runs.read_text() == "xx"
    assert ("cannot be read whole" in said) is (how == "cut")


@pytest.mark.parametrize("again", [False, True])
def test_what_has_to_be_asked_again_is_not_green_by_what_it_was(check: Check, tmp_path: Path, again: bool) -> None:
    _, step = counting(tmp_path)
    table = [replace(step, at_each_call=not again)]
    assert check(table)[0] == 0
    assert check(table, "--within", "5", *["--again"] * again)[0] == 1


class TestFiles:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        for name in ("scanproof/a.py", "tests/test_a.py", "expected/tasks.yaml", "docs/a.md", "conftest.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("a")
        return tmp_path

    @pytest.mark.parametrize("name", ["scanproof/a.py", "tests/test_a.py", "expected/tasks.yaml", "conftest.py"])
    def test_a_change_a_new_name_and_a_loss_are_seen(self, clone: Path, name: str) -> None:
        digests = [gpu_conditions.digest_files(clone)]
        (clone / name).write_text("b")
        digests.append(gpu_conditions.digest_files(clone))
        (clone / name).rename((clone / name).with_name("conftest.py" if "/" in name else "pyproject.toml"))
        digests.append(gpu_conditions.digest_files(clone))
        assert len(set(digests)) == 3

    def test_what_decides_nothing_is_not_seen(self, clone: Path) -> None:
        before = gpu_conditions.digest_files(clone)
        (clone / "scanproof" / "__pycache__").mkdir()
        (clone / "scanproof" / "__pycache__" / "a.pyc").write_text("b")
        (clone / "docs" / "a.md").write_text("b")
        assert gpu_conditions.digest_files(clone) == before

    def test_conditions_outlive_their_file(self, check: Check, tmp_path: Path) -> None:
        check([counting(tmp_path)[1]])
        now = gpu_conditions.of_machine(gpu_results.machine(), tmp_path / "work" / "digests.sqlite")
        assert results(tmp_path)["first"].conditions == now
