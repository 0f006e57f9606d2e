"""`scanproof exam --gates --clean`: a session that does not pass is an alarm, and an alarm fails the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from scanproof.cli import exam
from scanproof.cli.exam import ExamFormat
from scanproof.faults.gates import clean_settings, gate_exam, gate_session, gate_table
from scanproof.faults.gates.checkpoints import SPOILED_WEIGHTS
from scanproof.faults.gates.endings import Complaint
from scanproof.faults.gates.gate_session import SessionResult

ROOT = Path(__file__).parents[2]
PASSED = ("REPRODUCED", "REPRODUCED")


def answer(exit_code: int, *outcomes: str, said: str = "") -> clean_settings.CleanAnswer:
    """A session that ended with this exit code, and a number with each of these outcomes."""
    numbers = tuple(Complaint(outcome, said) for outcome in outcomes)
    result = SessionResult(exit_code=exit_code, numbers=numbers, said=said, output=said)
    return clean_settings.CleanAnswer(clean_settings.draw_clean_setting(len(outcomes)), result)


@pytest.mark.parametrize(
    ("exit_code", "outcomes", "alarm"),
    [
        (0, ["REPRODUCED", "REPRODUCED"], False),
        (1, ["REPRODUCED", "REPRODUCED"], True),
        (1, ["REPRODUCED", "CHANGED"], True),
        (0, ["REPRODUCED", "NOT_RUN"], True),
        (0, ["CHANGED"], True),
        (0, [], True),
        (2, [], True),
    ],
)
def test_whatever_is_no_pass_is_an_alarm(exit_code: int, outcomes: list[str], alarm: bool) -> None:
    one = answer(exit_code, *outcomes)
    assert one.alarm is alarm
    assert gate_table.make_clean_row(one)["alarm"] is alarm
    assert gate_table.summarize_clean([one]).partition(": ")[2].startswith(f"{int(alarm)} alarms")


@pytest.mark.parametrize("style", ExamFormat)
def test_one_alarm_among_many_fails_the_command_and_is_named(
    capsys: pytest.CaptureFixture[str], style: ExamFormat
) -> None:
    calm, loud = answer(0, *PASSED), answer(1, "REPRODUCED", "CHANGED", said="it moved")
    with pytest.raises(typer.Exit) as ended:
        exam._report_clean_sessions([calm, loud, calm], style)
    assert ended.value.exit_code == 1
    told = capsys.readouterr()
    assert f"3 clean sessions, 6 numbers: 1 alarms: {loud.setting}" in told.out + told.err
    if style is ExamFormat.json:
        assert [row["alarm"] for row in json.loads(told.out)] == [False, True, False]
    elif style is not ExamFormat.csv:
        assert "it moved" in told.out, "what the session said"


@pytest.mark.parametrize("style", ExamFormat)
def test_sessions_that_all_passed_do_not(capsys: pytest.CaptureFixture[str], style: ExamFormat) -> None:
    exam._report_clean_sessions([answer(0, *PASSED)] * 3, style)
    told = capsys.readouterr()
    assert "3 clean sessions, 6 numbers: 0 alarms" in told.out + told.err


def test_a_real_session_that_fails_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of the clean session is spoiled: what an exam must not overlook."""
    made = gate_exam.GateExam(tmp_path, ROOT / "expected")
    make_session = gate_exam.GateExam.make_session

    def make_spoiled(held: gate_exam.GateExam, name: str, warm: bool = True) -> Path:
        place = make_session(held, name, warm)
        gate_session.apply_changes((SPOILED_WEIGHTS,), place)
        return place

    monkeypatch.setattr(gate_exam.GateExam, "make_session", make_spoiled)
    ended = made.run_clean(0)
    assert ended.alarm
    assert ended.result.exit_code == 1
    assert set(ended.result.outcomes) <= {"CHANGED", "OUT_OF_TOLERANCE"}
