"""The steps for a bare GPU machine, rehearsed without one: tools/gpu_check.sh."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import gpu_check
import gpu_conditions
import gpu_results
import pytest
from gpu_steps import STEPS

from tests.support.gpu_scripts import ROOT, TOOLS, Check, check, of_python, of_tests, results, shell

__all__ = ["check"]

AT_MOST = 8
"""Most result files of all steps together, so that they are copied from a machine in one go."""
NO_GPU = "needs an NVIDIA GPU"

OF_ALL_KINDS = """
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "the kernel is wrong"
def test_is_skipped(): pytest.skip("too little memory")
@pytest.mark.xfail(strict=True)
def test_is_known(): assert False
@pytest.fixture
def broken(): raise OSError("the driver is gone")
def test_errs(broken): pass
"""


def test_folders_are_relative_to_where_the_script_is_called(tmp_path: Path) -> None:
    """With a second for all of it no step is begun, and what was found is written all the same."""
    words = "--work", "work", "--out", "results", "--rehearse", "--within", "1"
    done = shell(TOOLS / "gpu_check.sh", "--python", sys.executable, *words, folder=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["results/summary.md"], done.stderr
    assert (tmp_path / "results" / "summary.md").is_file()
    assert (tmp_path / "work").is_dir()
    assert not (ROOT / "results").exists()


class TestSelections:
    def test_every_step_selects_tests_with_its_own_command_line(self, tmp_path: Path) -> None:
        done = shell(TOOLS / "gpu_check.sh", "--python", sys.executable, "--work", tmp_path, "--selections")
        assert done.returncode == 0, done.stdout + done.stderr
        counts = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
        assert counts.keys() == {step.name for step in STEPS if step.tests}
        assert all(counts.values())

    def test_an_empty_selection_and_an_unknown_option_are_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        proof = next(step for step in STEPS if step.name == "proof")
        for more, reason in ((("-k", "no_such_test"), "no tests"), (("--no-such-option",), "unrecognized arguments")):
            assert gpu_check.selections(tmp_path, [replace(proof, tests=(*proof.tests, *more))]) == 1
            assert reason in capsys.readouterr().out

    def test_the_stand_ins_run_on_the_gpu_and_have_to_launch_kernels(self, tmp_path: Path) -> None:
        from scanproof.numbers.expected import reader

        values = reader.load(gpu_check.expected_on_gpu(tmp_path / "expected")).values
        jobs = {value.model: value.job for value in values if value.job.name.startswith("embedded-")}
        assert {job.device for job in jobs.values()} == {"cuda"}
        assert {model for model, job in jobs.items() if job.kernels} == {
            model for model, kernels in gpu_check.KERNELS.items() if kernels
        }

    def test_a_stand_in_of_which_nobody_says_what_it_launches_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(gpu_check.KERNELS, "pythia-tiny")
        with pytest.raises(SystemExit, match=r"pythia-tiny.yaml: KERNELS in .* does not say what it has to launch"):
            gpu_check.expected_on_gpu(tmp_path / "expected")

    def test_what_may_damage_a_process_is_last(self) -> None:
        of_their_own = [step.name for step in STEPS if "gpu and own_process and not latency" in step.tests]
        assert of_their_own == [STEPS[-1].name]
        numerics = [step for step in STEPS[:-1] if any("test_numerics" in each for each in step.tests)]
        assert numerics
        assert all("gpu and not own_process" in step.tests for step in numerics)

    def test_the_page_lists_them_with_their_limits(self) -> None:
        page = (ROOT / "docs" / "gpu.md").read_text()
        rows = "\n".join(f"| {step.name} | {step.asks} | {step.limit} s |" for step in STEPS)
        assert f"|---|---|---|\n{rows}\n\n" in page


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("rehearsal")
    steps = ("doctor", "proof", "stand-ins", "true-size")
    places = ("--work", folder / "work", "--out", folder / "out")
    return folder, shell(TOOLS / "gpu_check.sh", "--python", sys.executable, *places, "--rehearse", *steps)


class TestRehearsal:
    def test_every_step_is_red_for_want_of_a_gpu(
        self, rehearsed: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, done = rehearsed
        assert done.returncode == 1, done.stdout + done.stderr
        found = results(folder)
        assert {name: each.outcome for name, each in found.items()} == dict.fromkeys(found, "red")
        assert list(found) == ["doctor", "proof", "stand-ins", "true-size"]
        assert all(NO_GPU in each.reasons[0] for name, each in found.items() if name != "doctor"), found
        assert found["doctor"].reasons[0].startswith("missing: GPU: no NVIDIA driver")

    def test_results_are_few_whole_and_read_in_a_minute(
        self, rehearsed: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, _ = rehearsed
        files = {path.name for path in (folder / "out").iterdir()}
        assert files == {"summary.md", "steps.json", "log.txt", "evidence.tar.gz"}
        assert len(files) <= AT_MOST
        page = (folder / "out" / "summary.md").read_text()
        assert page.startswith("# red: doctor, proof, stand-ins, true-size; not begun: extensions, state-update,")
        assert "flash-attn is not installed" in page
        assert NO_GPU in page
        assert len(page.splitlines()) < 60
        with tarfile.open(folder / "out" / "evidence.tar.gz") as packed:
            assert {"doctor.log", "proof.log", "proof.xml", "stand-ins.xml", "true-size.log"} <= set(packed.getnames())

    def test_without_a_gpu_nothing_is_run_unless_it_is_rehearsed(self, tmp_path: Path) -> None:
        done = shell(TOOLS / "gpu_check.sh", "--python", sys.executable, "--work", tmp_path, "--out", tmp_path / "out")
        assert done.returncode == gpu_check.NO_GPU
        assert NO_GPU in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["no-such-step", "--out", "{tmp}/out"], "no step is named 'no-such-step'; there are doctor, proof"),
            (["proof"], "give the folder of results"),
            (["--wheels", "{tmp}", "--out", "{tmp}/out"], "holds no wheels; tools/gpu_wheels.sh makes them"),
            (["--wheels"], "--wheels wants a value"),
            (["--python", "no-such-python"], "no-such-python: not found"),
        ],
    )
    def test_a_mistake_is_said_in_a_line(self, words: list[str], said: str, tmp_path: Path) -> None:
        given = [word.format(tmp=tmp_path) for word in words]
        python = [] if "--python" in words else ["--python", sys.executable]
        done = shell("env", "OUT=", TOOLS / "gpu_check.sh", *python, "--work", tmp_path / "work", *given)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr


class TestVerdicts:
    def test_tests_are_counted_by_how_they_ended_and_the_first_reasons_kept(self, check: Check, tmp_path: Path) -> None:
        code, said = check([of_tests(tmp_path, "mixed", OF_ALL_KINDS)])
        found = results(tmp_path)["mixed"]
        assert code == 1
        assert found.counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "known": 1}
        assert found.outcome == "red"
        assert found.ended
        assert [reason.partition(":")[0] for reason in found.reasons] == ["test_fails", "test_errs", "skipped"]
        assert "the kernel is wrong" in found.reasons[0]
        assert "the driver is gone" in found.reasons[1]
        assert "mixed: red" in said
        page = (tmp_path / "out" / "summary.md").read_text()
        assert "| mixed | red | 1 | 1 | 1 | 1 | 1 |" in page
        assert "Made-up GPU, driver 1.2.3" in page

    def test_what_passes_is_green(self, check: Check, tmp_path: Path) -> None:
        code, _ = check([of_tests(tmp_path, "good", "def test_a(): pass\ndef test_b(): pass"), of_python("said", "")])
        assert code == 0
        assert {each.outcome for each in results(tmp_path).values()} == {"green"}
        assert results(tmp_path)["good"].counts["passed"] == 2
        assert (tmp_path / "out" / "summary.md").read_text().startswith("# green\n")

    @pytest.mark.parametrize(
        ("text", "words", "reason"),
        [
            ("import pytest\ndef test_a(): pytest.skip('no memory')", (), "no test passed: nothing was proved"),
            ("def test_a(): pass", ("-k", "of_no_such_name"), "its selection is empty: nothing was tested"),
            ("import no_such_module", (), "pytest ended with 2"),
            ("def test_a(): pass", ("--no-such-option",), "pytest ended with 4"),
            ("import os\ndef test_a(): os._exit(0)", (), "there is no report of its tests"),
        ],
        ids=["only skips", "empty", "not collected", "wrong option", "died with 0"],
    )
    def test_what_shows_nothing_is_red(
        self, text: str, words: tuple[str, ...], reason: str, check: Check, tmp_path: Path
    ) -> None:
        code, _ = check([of_tests(tmp_path, "empty", text, *words)])
        found = results(tmp_path)["empty"]
        assert code == 1
        assert found.outcome == "red"
        assert any(reason in each for each in found.reasons), found.reasons

    def test_a_command_that_fails_says_its_last_words(self, check: Check, tmp_path: Path) -> None:
        assert check([of_python("bad", "print('before'); raise SystemExit('no kernel image')")])[0] == 1
        assert results(tmp_path)["bad"].reasons == ("no kernel image",)

    def test_a_step_beyond_its_limit_is_stopped_and_the_next_one_runs(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("hangs", "import time; time.sleep(600)", limit=1), of_python("next", "")]
        assert check(table)[0] == 1
        found = results(tmp_path)
        assert not found["hangs"].ended
        assert found["hangs"].reasons == ("stopped at its time limit",)
        assert found["next"].outcome == "green"
        assert "| hangs | red, did not end |" in (tmp_path / "out" / "summary.md").read_text()


class TestBesideEachOther:
    def test_steps_that_wait_for_each_other_end_and_alone_is_alone(self, check: Check, tmp_path: Path) -> None:
        """Each of the first two ends only when the other has begun; the third finds both ended."""
        meets = "import time; from pathlib import Path; here = Path({!r}); (here / {!r}).touch()\n"
        meets += "while not (here / {!r}).exists(): time.sleep(0.01)\n(here / ({!r} + '.ended')).touch()"
        first = of_python("first", meets.format(str(tmp_path), "a", "b", "a"))
        second = of_python("second", meets.format(str(tmp_path), "b", "a", "b"))
        looks = f"from pathlib import Path; assert len(list(Path({str(tmp_path)!r}).glob('*.ended'))) == 2"
        third = replace(of_python("third", looks), alone=True)
        code, _ = check([first, second, third], "--beside", "2")
        assert (code, [result.outcome for result in results(tmp_path).values()]) == (0, ["green"] * 3)


class TestResumption:
    def test_what_there_is_no_time_for_is_not_begun_and_not_green(self, check: Check, tmp_path: Path) -> None:
        code, said = check([of_python("first", "")], "--within", "5")
        assert code == 1
        assert "first: not begun, there is no time left" in said
        assert (tmp_path / "out" / "summary.md").read_text().startswith("# nothing was run; not begun: first\n")
        assert check([of_python("first", "")], "--within", "1000")[0] == 0

    def test_what_is_done_is_not_repeated_unless_asked_for(self, check: Check, tmp_path: Path) -> None:
        marks = tmp_path / "marks"
        write = f"open({str(marks)!r}, 'a').write('x')"
        table = [of_python("first", write), of_python("second", f"{write}; raise SystemExit(1)")]
        for words, runs in (
            (["first"], 1),
            # A red step has ended as well: its result is known.
            ([], 2),
            ([], 2),
            (["--again", "second"], 3),
        ):
            check(table, *words)
            assert len(marks.read_text()) == runs, words
        code, said = check(table)
        assert code == 1, "a step that was red before is red"
        assert "first: done before, green" in said

    def test_what_was_killed_is_repeated(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", "")]
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "out").mkdir()
        now = gpu_conditions.of_machine(gpu_results.machine(), tmp_path / "work" / "digests.sqlite")
        begun = {"first": gpu_results.begun(table[0], now)}
        gpu_results.write(begun, table, tmp_path / "work", tmp_path / "out", now)
        assert "| first | running, did not end |" in (tmp_path / "out" / "summary.md").read_text()
        assert check(table)[0] == 0

    def test_a_rehearsal_counts_for_nothing_later(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", "")]
        check(table, "--rehearse")
        page = (tmp_path / "out" / "summary.md").read_text()
        assert page.startswith("# green; rehearsed: first\n")
        assert "| first | green, rehearsed |" in page
        assert check(table, "--within", "5")[0] == 1, "there is no time for it, and a rehearsal is no result"
        assert "done before" not in check(table)[1]

    def test_results_of_another_machine_are_gone_on_from(self, check: Check, tmp_path: Path) -> None:
        table = [of_python("first", ""), of_python("second", "")]
        check(table, "first")
        (tmp_path / "out").rename(tmp_path / "earlier")
        shutil.rmtree(tmp_path / "work")
        assert "first: done before" in check(table, "--earlier", str(tmp_path / "earlier"))[1]
        assert list(results(tmp_path)) == ["first", "second"]


def test_the_state_is_json_that_names_machine_and_steps(check: Check, tmp_path: Path) -> None:
    check([of_python("first", "")])
    found = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert found["machine"]["gpus"][0]["name"] == "Made-up GPU"
    assert [step["name"] for step in found["steps"]] == ["first"]
