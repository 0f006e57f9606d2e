"""The exam of the gates: a session with a fault in it fails, by an outcome that says so; one fault per way to plant."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from scanproof.faults.gates import asked_otherwise, file_changes, gate_catalogue, gate_exam, scored_otherwise
from scanproof.faults.gates.checkpoints import SPOILED
from scanproof.faults.gates.clean_settings import BATCH_SIZES, ENGINES, NUMBERS, VARIABLES, draw_clean_setting
from scanproof.faults.gates.endings import (
    CHANGED,
    NOTHING_SELECTED,
    SESSION_FAILS,
    USAGE_ERROR,
    Complaint,
    Ending,
    error,
)
from scanproof.faults.gates.gate_fault import (
    LENIENT,
    Before,
    Conftest,
    Edit,
    GateFault,
    InWorker,
    NotPlantedError,
    Remove,
    Write,
)
from scanproof.faults.gates.gate_session import SessionResult, apply_changes, find_reason, make_folder, run_session
from scanproof.numbers.verdict.outcome import Outcome, meaning_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gate-faults.md"
EXPECTED = ROOT / "expected"
BY_ID = {fault.id: fault for fault in gate_catalogue.FAULTS}


def page_rows() -> list[list[str]]:
    """The cells of the page's table."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("", "pytest printed nothing"),
        ("\n \n", "pytest printed nothing"),
        ("2 passed in 3.10s\n", "2 passed"),
        ("one\nERROR: not this way\ntwo\n", "ERROR: not this way"),
        ("ERROR: these:\nfirst\n", "ERROR: these: first"),
        ("not green: alone:\n", "not green: alone: "),
    ],
)
def test_the_reason_is_a_line_of_what_pytest_printed(printed: str, reason: str) -> None:
    assert find_reason(printed) == reason


def test_the_page_lists_exactly_the_faults_of_the_catalogue() -> None:
    expected = [(f"`{fault.id}`", fault.area, fault.what, fault.planted_by) for fault in gate_catalogue.FAULTS]
    assert [tuple(row[:4]) for row in page_rows()] == expected


def test_the_page_says_that_every_fault_was_run_and_caught() -> None:
    rows = page_rows()
    assert len(rows) >= 60
    for name, *_, ending, said in rows:
        names = {part.split()[-1] for part in ending.split(",")}
        failed = {name for name in names if name not in set(Outcome) or meaning_of(name).is_bad}
        fault = BY_ID[name.strip("`")]
        assert failed, f"{fault.id}: {ending}"
        assert failed <= fault.ending.names, f"{fault.id}: {ending}"
        reason = unescape(said).replace("\\|", "|")
        assert reason.endswith("...") or re.search(fault.ending.says, reason), f"{fault.id}: {reason}"


def test_the_page_says_that_clean_sessions_raised_no_alarm() -> None:
    (line,) = re.findall(r"(\d+) clean sessions, (\d+) numbers: (\d+) alarms", PAGE.read_text(encoding="utf-8"))
    sessions, numbers, alarms = map(int, line)
    assert sessions >= 200
    assert numbers > sessions
    assert alarms == 0


def test_faults_have_names_of_their_own_and_functions_that_plant_them() -> None:
    assert len(BY_ID) == len(gate_catalogue.FAULTS) >= 60
    planted = [change.name for fault in BY_ID.values() for change in fault.changes if isinstance(change, InWorker)]
    assert not [name for name in planted if hasattr(asked_otherwise, name) is hasattr(scored_otherwise, name)]


def test_an_ending_that_a_fault_has_exists() -> None:
    known = {*Outcome, SESSION_FAILS, USAGE_ERROR, NOTHING_SELECTED}
    assert all(fault.ending.names <= known for fault in BY_ID.values())


def test_a_row_begins_with_a_spoiled_checkpoint_only_where_it_must_not_hide_it() -> None:
    """So that every other session would pass without its fault."""
    wrong = [
        fault.id
        for fault in BY_ID.values()
        if fault.before is Before.KEPT_SPOILED and (fault.ending is not SPOILED or fault.reuses is None)
    ]
    assert not wrong


def test_an_outcome_with_many_reasons_needs_one() -> None:
    for outcome in (Outcome.ERROR, Outcome.COMPARISON_MISSING, Outcome.NOT_RUN):
        with pytest.raises(ValueError, match="a reason unless it is one of"):
            Ending(frozenset({outcome}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> gate_exam.GateExam:
    """An exam whose workers are processes of their own, as they are for users.

    To prepare it, a session without a fault has to pass, and one with a spoiled checkpoint to be CHANGED.
    """
    made = gate_exam.GateExam(tmp_path_factory.mktemp("gates"), EXPECTED)
    made.prepare()
    return made


@pytest.fixture(scope="module")
def store(prepared: gate_exam.GateExam) -> Path:
    """The folder of a session that has all that faults change: a strict one keeps no index of tasks."""
    place = prepared.folder / Before.KEPT_CLEAN.name
    lenient = run_session(place, "piqa", LENIENT, {})
    assert lenient.passed
    assert lenient.reused
    return place


@pytest.mark.parametrize("area", sorted({fault.area for fault in BY_ID.values() if "file" in fault.planted_by}))
def test_changes_of_files_can_be_planted(store: Path, tmp_path: Path, area: str) -> None:
    for fault in (fault for fault in BY_ID.values() if fault.area == area and "file" in fault.planted_by):
        place = tmp_path / fault.id
        make_folder(place, EXPECTED)
        gate_exam.begin_with_kept(place, store)
        apply_changes(fault.changes, place)


def test_what_a_fault_adds_is_python() -> None:
    for fault in BY_ID.values():
        for change in fault.changes:
            if isinstance(change, Conftest) or (isinstance(change, Write) and change.path.endswith(".py")):
                compile(change.text, fault.id, "exec")


@pytest.mark.parametrize(
    "name",
    [
        "mean_rounded",  # in the worker
        "row_gone",  # in a file
        "answers_removed",  # in the evidence
        "stored_entry_damaged",  # in the store
        "hook_without_samples",  # by a conftest
        "setup_plan",  # by an option
        "optimised_python",  # by a variable
    ],
)
def test_a_session_with_a_fault_fails_by_it(prepared: gate_exam.GateExam, name: str) -> None:
    answer = prepared.examine(BY_ID[name])
    assert answer.caught, f"{answer.missed_because}: {answer.result}\n{answer.result.output}"


def test_a_fault_that_cannot_be_planted_is_no_answer(tmp_path: Path) -> None:
    make_folder(tmp_path / "session", EXPECTED)
    for change, reason in (
        (Edit("mirror/nobody/*", file_changes.cut), "no file fits"),
        (Edit("expected/tasks.yaml", lambda content: content), "is as it was"),
        (Edit("expected/tasks.yaml", file_changes.cut, keeps_size_and_time=True), "is not as large as it was"),
        (Remove("mirror/nobody"), "no file fits"),
    ):
        with pytest.raises(NotPlantedError, match=reason):
            change.apply(tmp_path / "session", {})


def test_a_worker_that_does_not_plant_its_fault_is_no_answer(tmp_path: Path) -> None:
    fault = GateFault("nothing", "prompts", "There is no such fault.", (InWorker("nothing"),), error("."))
    answer = gate_exam.GateExam(tmp_path, EXPECTED).examine(fault)
    assert not answer.caught
    assert str(answer.result) == "not planted"
    assert "no worker planted it" in answer.result.said


def make_result(exit_code: int, *endings: str, because: str = "", reused: int = 0, measured: int = 1) -> SessionResult:
    """The result of a session whose numbers ended so, each for the same reason."""
    numbers = tuple(Complaint(ending, because) for ending in endings)
    return SessionResult(exit_code=exit_code, numbers=numbers, said=because, reused=reused, measured=measured)


@pytest.mark.parametrize(
    ("exit_code", "endings", "caught"),
    [
        (0, ["REPRODUCED", "REPRODUCED"], False),
        (1, ["REPRODUCED", "CHANGED"], True),
        (1, ["REPRODUCED", "ERROR"], False),
        (1, ["CHANGED", "ERROR"], False),
        (1, ["REPRODUCED", "REPRODUCED"], False),
        (3, ["CHANGED", "CHANGED"], False),
        (0, ["CHANGED", "CHANGED"], False),
    ],
)
def test_a_fault_counts_as_caught_only_by_its_outcome_and_exit_code(
    exit_code: int, endings: list[str], caught: bool
) -> None:
    fault = GateFault("one", "prompts", "Something.", (), CHANGED)
    assert gate_exam.GateAnswer(fault, make_result(exit_code, *endings)).caught is caught


def test_an_error_of_another_reason_has_not_caught_a_fault() -> None:
    fault = GateFault("one", "answers", "Something.", (), error("400 of 400 answers"))
    crashed = make_result(1, "ERROR", because="worker: MemoryError")
    assert gate_exam.GateAnswer(fault, crashed).missed_because == "its reason does not say '400 of 400 answers'"
    assert gate_exam.GateAnswer(fault, make_result(1, "ERROR", because="400 of 400 answers are NaN")).caught


@pytest.mark.parametrize(
    ("reuses", "reused", "measured", "caught"),
    [(True, 1, 0, True), (True, 0, 1, False), (True, 0, 0, False), (False, 0, 1, True), (False, 1, 0, False)],
)
def test_a_row_says_whether_its_session_reuses_an_evaluation(
    reuses: bool, reused: int, measured: int, caught: bool
) -> None:
    fault = GateFault("one", "stores", "Something.", (), CHANGED, reuses=reuses)
    result = make_result(1, "CHANGED", reused=reused, measured=measured)
    assert gate_exam.GateAnswer(fault, result).caught is caught


def test_the_exam_is_not_held_unless_its_first_sessions_end_as_they_must() -> None:
    moved = "margins moved by -0.02 nats"
    gate_exam.require_passed("kept", make_result(0, "REPRODUCED"))
    gate_exam.require_changed("kept", make_result(1, "CHANGED", "CHANGED", because=moved))
    for result in (make_result(0), make_result(1, "REPRODUCED"), make_result(0, "REPRODUCED", "KNOWN_DISCREPANCY")):
        with pytest.raises(gate_exam.GateExamError, match="a session without a fault ended as"):
            gate_exam.require_passed("kept", result)
    for result in (
        make_result(0, "REPRODUCED"),
        make_result(1, "ERROR", because=moved),
        make_result(1, "CHANGED", "REPRODUCED", because=moved),
        make_result(1, "CHANGED", "CHANGED", because="something else"),
    ):
        with pytest.raises(gate_exam.GateExamError, match="its session ended as"):
            gate_exam.require_changed("kept", result)


def test_settings_of_clean_sessions_are_drawn_from_seeds() -> None:
    settings = [draw_clean_setting(seed) for seed in range(200)]
    assert settings == [draw_clean_setting(seed) for seed in range(200)]
    assert {setting.engine for setting in settings} == set(ENGINES)
    assert {setting.batch_size for setting in settings} == set(BATCH_SIZES)
    assert {setting.numbers for setting in settings} == set(NUMBERS)
    assert all(variables in [setting.variables for setting in settings] for variables in VARIABLES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gates", "--faults", "nobody"], "no fault of the gates holds"),
        (["--gates", "--clean", "1", "--faults", "row_gone"], "leave --faults out"),
        (["--gates", "--evaluation"], "leave --evaluation and --place out"),
        (["--jobs", "2"], "--jobs is for --gates"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], said: str) -> None:
    from typer.testing import CliRunner

    from scanproof.cli.app import app

    result = CliRunner().invoke(app, ["exam", *options])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
