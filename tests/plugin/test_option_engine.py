"""--scanproof-engine: which engine scores, and what `auto` does where the shared one has a number fail."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scanproof.record import Run, find_run, read_run
from scanproof.triage import gather
from tests.support.engines_project import BAD, GOOD, NUMBER, answer, asked, prepare
from tests.support.planted import REFERENCE, Copy, clean_copy, state_of_the_neighbour
from tests.support.small_project import Project


@pytest.fixture
def engines(project: Project) -> Project:
    return prepare(project)


def the_record(project: Project) -> dict[str, Any]:
    records = project.latest_run()["records"]
    assert isinstance(records, list)
    (kept,) = records
    return dict(kept)


class TestTheOption:
    @pytest.mark.parametrize(
        ("arguments", "variable", "ini", "expected"),
        [
            ((), "", "", "shared"),
            (("--scanproof-engine=plain",), "", "", "plain"),
            (("--scanproof-engine=shared",), "plain", "", "shared"),
            ((), "plain", "shared", "plain"),
            ((), "", "plain", "plain"),
        ],
    )
    def test_is_a_flag_a_variable_and_an_ini_key(
        self, engines: Project, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], variable: str, ini: str,
        expected: str,
    ) -> None:  # fmt: skip
        if variable:
            monkeypatch.setenv("SCANPROOF_ENGINE", variable)
        if ini:
            engines.pytester.makeini(f"[pytest]\nscanproof_engine = {ini}\n")
        engines.run(*arguments).assert_outcomes(passed=1)
        assert asked(engines) == [expected]

    def test_names_an_engine(self, engines: Project) -> None:
        result = engines.run("--scanproof-engine=fast")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*the engine is one of plain, shared, auto, not 'fast'*"])

    @pytest.mark.parametrize("engine", ["plain", "shared"])
    def test_one_engine_by_name_measures_nothing_again(self, engines: Project, engine: str) -> None:
        answer(engines, **{engine: [BAD, engine]})
        result = engines.run(f"--scanproof-engine={engine}")
        result.assert_outcomes(failed=1)
        assert asked(engines) == [engine]
        assert ("engine      shared, and nothing was measured again" in result.stdout.str()) == (engine == "shared")


class TestAuto:
    def test_a_number_that_comes_out_is_measured_once(self, engines: Project) -> None:
        engines.run().assert_outcomes(passed=1)
        assert asked(engines) == ["shared"]

    def test_a_number_that_only_the_shared_engine_has_wrong_names_both_numbers_and_the_documents(
        self, engines: Project
    ) -> None:
        answer(engines, shared=[BAD, "shared"])
        result = engines.run()
        result.assert_outcomes(failed=1)
        assert asked(engines) == ["shared", "plain"]
        result.stdout.fnmatch_lines([
            "50.00 measured, 50.0 expected, * allowed: as printed when plain scores, but the engines disagree",
            "*engine *the engines disagree: a kernel that carries a state over is wrong, or the engine is",
            "*shared measured 0.420875, plain 0.5",
            "*measured again because OUT_OF_TOLERANCE: measured below the printed number by *",
            "*shared against plain, flips: 0 documents gained, 188 lost of 2376*",
            "*arc_easy document 1000: -2 nats, shared minus plain; 0 by shared, 1 by plain",
            "*triage *engines: the engines disagree*",
            "*next *pytest tests/kernels -k *split or decode*",
            "*measured again by plain, whose verdict counts: one-arc_easy-acc-author was OUT_OF_TOLERANCE*; "
            "the engines disagree on 1 of 1 numbers",
            "*1 numbers: 1 ENGINES_DISAGREE",
        ])  # fmt: skip
        kept = the_record(engines)
        assert (kept["outcome"], kept["verdict"]["measured"], kept["evaluation_key"]) == (
            "ENGINES_DISAGREE", 0.5, "p" * 64,
        )  # fmt: skip
        assert kept["verdict"]["engines"]["shared"] == BAD / 2376

    def test_both_have_it_wrong_alike(self, engines: Project) -> None:
        answer(engines, shared=[BAD, "shared"], plain=[BAD, "plain"])
        result = engines.run()
        result.assert_outcomes(failed=1)
        assert the_record(engines)["outcome"] == "OUT_OF_TOLERANCE"
        result.stdout.fnmatch_lines(["42.09 measured, 50.0 expected*too low", "*engine *the engines agree"])
        assert "engines disagree" not in result.stdout.str()

    def test_both_have_it_wrong_and_disagree_as_well(self, engines: Project) -> None:
        """Plain's failure stands; that the engines disagree is told beside it."""
        answer(engines, shared=[700, "shared"], plain=[BAD, "plain"])
        result = engines.run()
        result.assert_outcomes(failed=1)
        assert the_record(engines)["outcome"] == "OUT_OF_TOLERANCE"
        result.stdout.fnmatch_lines(["42.09 measured*too low", "*engine *the engines disagree*"])

    def test_noise_that_only_the_shared_engine_has_beyond_the_tolerance_passes_and_is_said(
        self, engines: Project
    ) -> None:
        """1153 documents are the fewest that pass; ten that flipped between the engines are noise."""
        answer(engines, shared=[1148, "shared"], plain=[1158, "plain"])
        result = engines.run()
        result.assert_outcomes(passed=1)
        assert asked(engines) == ["shared", "plain"]
        kept = the_record(engines)
        assert kept["outcome"] == "REPRODUCED"
        assert kept["verdict"]["engines"]["finding"]["outcome"] == "SAME"
        result.stdout.fnmatch_lines(["*measured again by plain, whose verdict counts: *; the engines agree"])

    def test_a_request_that_plain_scores_otherwise_is_enough(self, engines: Project) -> None:
        """Every number comes out, by either engine, and their answers are the same: the spot check alone asks."""
        answer(engines, shared=[GOOD, "shared", -1.004])
        result = engines.run()
        result.assert_outcomes(passed=1)
        assert asked(engines) == ["shared", "plain"]
        result.stdout.fnmatch_lines([
            "*measured again by plain, whose verdict counts: of 8 requests that plain scored as well, one got -1 by "
            "shared and -1.004 by plain, where 0.001 nats are rounding; the engines agree"
        ])  # fmt: skip

    def test_a_request_that_is_far_off_is_a_disagreement_by_itself(self, engines: Project) -> None:
        """As many answers may have moved up as down: then no test over all documents sees them."""
        answer(engines, shared=[GOOD, "shared", -4.0])
        result = engines.run()
        result.assert_outcomes(failed=1)
        kept = the_record(engines)
        assert kept["outcome"] == "ENGINES_DISAGREE"
        assert "one got -1 by shared and -4 by plain, where 0.001 nats are rounding" in kept["because"]

    def test_what_only_plain_has_wrong_is_seen(self, engines: Project) -> None:
        """A fused kernel that the shared engine never calls."""
        answer(engines, shared=[GOOD, "shared", -4.0], plain=[BAD, "plain"])
        result = engines.run()
        result.assert_outcomes(failed=1)
        assert the_record(engines)["outcome"] == "OUT_OF_TOLERANCE"
        result.stdout.fnmatch_lines(["42.09 measured*too low", "*engine *the engines disagree*"])

    def test_what_was_scored_plain_is_not_scored_plain_again(self, engines: Project) -> None:
        answer(engines, shared=[BAD, "plain"])
        result = engines.run()
        result.assert_outcomes(failed=1)
        assert asked(engines) == ["shared"]
        result.stdout.fnmatch_lines(["scored plain: the class takes no state (1 jobs)"])

    def test_an_error_that_may_be_the_engines_leaves_the_number_to_plain(self, engines: Project) -> None:
        answer(engines, shared={"kind": "worker", "message": "it broke"})
        result = engines.run()
        result.assert_outcomes(passed=1)
        assert asked(engines) == ["shared", "plain"]
        result.stdout.fnmatch_lines(
            ["*measured again by plain*the shared engine broke: worker: it broke; nothing of the two can be compared"]
        )

    def test_an_engine_that_broke_fails_a_strict_session(self, engines: Project) -> None:
        answer(engines, shared={"kind": "worker", "message": "it broke"})
        result = engines.run("--scanproof-strict")
        result.assert_outcomes(failed=1)
        kept = the_record(engines)
        assert kept["outcome"] == "ERROR"
        assert kept["because"].startswith("the shared engine broke, and plain did not: worker: it broke; ")
        result.stdout.fnmatch_lines(["*: the shared engine broke, and plain did not: worker: it broke; *"])
        run = read_run(find_run(engines.root / ".scanproof" / "runs", "latest"))
        assert gather.find_error(engines.root / "none.json", run.records[0]) is None, "it is no broken run"

    def test_a_kernel_that_only_plain_launches_is_left_to_it(self, engines: Project) -> None:
        answer(engines, shared={"kind": "fallback", "message": "rotary_kernel was not launched"})
        result = engines.run("--scanproof-strict")
        result.assert_outcomes(passed=1)
        assert the_record(engines)["outcome"] == "REPRODUCED"

    def test_an_error_of_the_machine_is_not_met_twice(self, engines: Project) -> None:
        answer(engines, shared={"kind": "out_of_memory", "message": "it broke"})
        engines.run().assert_outcomes(errors=1)
        assert asked(engines) == ["shared"]

    def test_an_error_of_both_is_plains_and_says_so(self, engines: Project) -> None:
        broken = {"kind": "worker", "message": "it broke"}
        answer(engines, shared=broken, plain={**broken, "message": "this broke too"})
        result = engines.run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            ["*this broke too", "*measured again by plain after the shared engine: *it broke)*"]
        )

    def test_with_two_processes_plain_measures_once(self, engines: Project) -> None:
        path = engines.root / "expected" / "900-test" / "one.yaml"
        line = path.read_text().splitlines()[-1]
        more = [line.replace("unit: percent}", f"unit: percent, suffix: again{n}}}") for n in range(7)]
        path.write_text("\n".join([path.read_text().rstrip(), *more, ""]))
        about = path.with_name("document.yaml")
        about.write_text(about.read_text().replace("numbers: 1\n", "numbers: 8\n"))
        answer(engines, shared=[BAD, "shared"])
        engines.run("-n", "2").assert_outcomes(failed=8)
        assert asked(engines) == ["shared", "plain"]

    def test_a_subset_is_never_measured_again(self, engines: Project) -> None:
        answer(engines, shared=[BAD, "shared"])
        engines.run("--scanproof-limit=10").assert_outcomes(skipped=1)
        assert asked(engines) == ["shared"]

    def test_page_and_junit_name_both(self, engines: Project) -> None:
        answer(engines, shared=[BAD, "shared"])
        engines.run("--scanproof-report=page.html", "--junitxml=out.xml")
        page, junit = ((engines.root / name).read_text() for name in ("page.html", "out.xml"))
        assert '"outcome":"ENGINES_DISAGREE"' in page
        assert '"engines_because":["shared measured 0.420875, plain 0.5"' in page
        assert 'name="scanproof_engines" value="shared measured 0.420875, plain 0.5;' in junit
        assert NUMBER in page


Ran = tuple[Run, subprocess.CompletedProcess[str]]


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Ran]:
    """A stand-in's numbers of one task through lm-eval, in a copy of the project with something planted."""

    def evaluate(*plants: Callable[[Copy], None], engine: str, task: str = "lambada") -> Ran:
        copy = clean_copy(tmp_path)
        for plant in plants:
            plant(copy)
        result = copy.evaluate(tmp_path / "store", f"--scanproof-engine={engine}", task=task)
        return read_run(find_run(tmp_path / "store" / "runs", "latest")), result

    return evaluate


@pytest.mark.usefixtures("warm_copies")
class TestOnAStandIn:
    def test_plain_does_without_the_shared_engine_altogether(self, stand_in: Callable[..., Ran]) -> None:
        def gone(copy: Copy) -> None:
            for path in (copy.folder / "scanproof" / "scoring").glob("*.py"):
                path.unlink()
                path.write_text("raise RuntimeError('plain scoring read this')\n")

        run, result = stand_in(gone, engine="plain")
        assert result.returncode == pytest.ExitCode.OK, result.stdout
        assert [(each.engine, each.scoring) for each in run.evaluations] == [("plain", None)]

    def test_shared_says_what_it_ran(self, stand_in: Callable[..., Ran]) -> None:
        run, result = stand_in(engine="shared")
        assert result.returncode == pytest.ExitCode.OK, result.stdout
        (evaluation,) = run.evaluations
        assert evaluation.engine == "shared"
        assert evaluation.scoring is not None
        assert 0 < evaluation.scoring.distinct_tokens <= evaluation.scoring.tokens
        assert evaluation.scoring.scored_positions >= 200
        assert evaluation.scoring.spot is not None
        assert (evaluation.scoring.spot.requests, evaluation.scoring.spot.differs) == (8, False)
        assert f"shared engine: {evaluation.scoring.tokens:,} tokens run" in result.stdout

    def test_a_state_handed_to_the_wrong_branch_leaves_plains_numbers_and_is_named(
        self, stand_in: Callable[..., Ran]
    ) -> None:
        run, result = stand_in(state_of_the_neighbour, engine="auto", task="piqa")
        assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
        assert {record.outcome for record in run.records} == {"ENGINES_DISAGREE"}, result.stdout
        for record in run.records:
            assert record.verdict is not None
            assert record.verdict.difference is not None
            assert abs(record.verdict.difference) < 1e-4, "plain's number"
        (evaluation,) = run.evaluations
        assert (evaluation.engine, evaluation.scoring) == ("plain", None)
        assert evaluation.replaced is not None
        assert evaluation.replaced.scoring is not None

    def test_a_fault_in_what_only_plain_calls_is_seen(self, stand_in: Callable[..., Ran]) -> None:
        """As in a fused kernel: the shared engine's numbers come out."""

        def skip_lost(copy: Copy) -> None:
            copy.edit("scanproof/models/layers.py", "A, B, C, self.D, z, bias,", "A, B, C, None, z, bias,")

        run, result = stand_in(skip_lost, engine="auto")
        assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
        assert {record.outcome for record in run.records} == {"OUT_OF_TOLERANCE"}, result.stdout
        (evaluation,) = run.evaluations
        assert evaluation.replaced is not None
        assert evaluation.replaced.because == {}
        assert "measured again by plain, whose verdict counts: of 8 requests that plain scored as well" in result.stdout

    def test_a_fault_under_both_engines_is_out_of_tolerance_as_before(self, stand_in: Callable[..., Ran]) -> None:
        def state_forgotten(copy: Copy) -> None:
            copy.edit(REFERENCE, "y, state = _scan_chunk(", "y, _ = _scan_chunk(")

        run, result = stand_in(state_forgotten, engine="auto")
        assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
        assert {record.outcome for record in run.records} == {"OUT_OF_TOLERANCE"}, result.stdout
        (evaluation,) = run.evaluations
        assert evaluation.replaced is not None, "plain measured it"

    def test_a_class_that_takes_no_state_is_scored_plain_and_says_why(self, stand_in: Callable[..., Ran]) -> None:
        def refuse(copy: Copy) -> None:
            call = "tally = scoring.install(model, say=print)"
            copy.edit("scanproof/evaluation/worker/run.py", call, 'raise scoring.Unsupported("it takes no state")')

        run, result = stand_in(refuse, engine="auto")
        assert result.returncode == pytest.ExitCode.OK, result.stdout
        (evaluation,) = run.evaluations
        assert (evaluation.engine, evaluation.engine_because) == ("plain", "it takes no state")
        assert "scored plain: it takes no state (1 jobs)" in result.stdout
