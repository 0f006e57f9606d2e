"""What triage reads of other runs, also where their files are damaged."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof import record
from scanproof.evaluation import store
from scanproof.history import new_baseline
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, seal, unseal
from scanproof.record import Evaluation
from scanproof.triage import read_answers
from tests.support.small_history import filled, make_run

STRICT = rb'"strict":\s*true'
GOOD, NOW = "20260101T010000Z-00000001", "20260102T010000Z-00000002"


def test_the_parts_of_a_fingerprint_that_cannot_be_read_are_not_known(tmp_path: Path) -> None:
    path = store.folder_of(tmp_path, "k" * 64) / "fingerprint.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"parts": {"packages": "p"}}')
    assert read_answers.read_fingerprint_parts(tmp_path, "k" * 64) == {"packages": "p"}
    (path.parent / store.IMPORTED).write_text("[" * 100_000)
    assert read_answers.read_fingerprint_parts(tmp_path, "k" * 64) == {"packages": "p"}
    path.write_text("[" * 100_000)
    assert read_answers.read_fingerprint_parts(tmp_path, "k" * 64) is None


def test_what_another_run_had_to_compare_is_found_among_any_number_of_others(tmp_path: Path) -> None:
    """A store that other sessions use as well would soon hide the last strict night behind them."""
    make_run(tmp_path, "20260101T010000Z-00000001", due=("n",))
    for number in range(read_answers.LOOKED_AT + 5):
        make_run(tmp_path, f"20260102T010000Z-{number:08}", strict=False)
    runs = read_answers.Runs(tmp_path)
    assert "20260101T010000Z-00000001" not in [run.id for run in runs.before("20260103T010000Z-00000001")]
    strict = list(runs.all_others("20260103T010000Z-00000001", STRICT))
    assert [run.due for run in strict] == [("n",)]


def test_a_clock_that_was_set_back_hides_no_run(tmp_path: Path) -> None:
    ahead = "20990101T010000Z-00000001"
    make_run(tmp_path, ahead)
    make_run(tmp_path, NOW)
    assert [run.id for run in read_answers.Runs(tmp_path).all_others(NOW, STRICT)] == [ahead]


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:40],
    "cut off at a bracket": lambda content: content[: content.index(b"}") + 1],
    "another object": lambda content: b"{}",
    "another list": lambda content: b"[]",
    "not strict any more": lambda content: content.replace(b'"strict": true', b'"strict": false'),
    "without strict": lambda content: content.replace(b' "strict": true,\n', b""),
    "somebody else's": lambda content: content.replace(GOOD.encode(), NOW.encode()),
    "doubled": lambda content: content + content,
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_run_that_is_not_as_its_session_wrote_it_is_named(tmp_path: Path, how: str) -> None:
    """What it compared is not known."""
    whole = "20260101T010000Z-00000002"
    make_run(tmp_path, whole)
    path = make_run(tmp_path, GOOD)
    content = path.read_bytes()
    path.write_bytes(SPOILED[how](content))
    assert path.read_bytes() != content
    runs = read_answers.Runs(tmp_path)
    assert [run.id for run in runs.all_others(NOW, STRICT)] == [whole]
    assert runs.unread == {GOOD}


def test_a_run_whose_file_is_gone_is_named_and_one_that_just_begins_is_not(tmp_path: Path) -> None:
    make_run(tmp_path, GOOD).unlink()
    (tmp_path / "runs" / "20260101T010000Z-00000002").mkdir()
    runs = read_answers.Runs(tmp_path)
    assert list(runs.all_others(NOW, STRICT)) == []
    assert runs.unread == {GOOD}


@pytest.fixture
def declared(tmp_path: Path) -> History:
    """A history whose only run is the declared baseline."""
    history = filled(tmp_path, GOOD)
    new_baseline.declare(history, history.find(GOOD), "it is good")
    return history


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    """What the run in question evaluated."""
    return record.read_run(make_run(tmp_path / "store", NOW)).evaluations[0]


def test_a_declared_baseline_is_a_side_with_its_answers(
    declared: History, evaluation: Evaluation, tmp_path: Path
) -> None:
    side = read_answers.read_declared_baseline(declared.place.name, evaluation, tmp_path / "store")
    assert side is not None
    assert side.name == f"the baseline run {GOOD}"
    assert len(side.tasks["piqa"].samples.doc_ids) == 400


def test_a_declared_baseline_that_is_gone_is_said(declared: History, evaluation: Evaluation, tmp_path: Path) -> None:
    shutil.rmtree(Path(declared.place.name) / "runs" / GOOD)
    with pytest.raises(HistoryError, match=f"the baseline run {GOOD} cannot be read: it is gone"):
        read_answers.read_declared_baseline(declared.place.name, evaluation, tmp_path / "store")


def test_a_declared_baseline_with_damaged_answers_is_said(
    declared: History, evaluation: Evaluation, tmp_path: Path
) -> None:
    (samples,) = (Path(declared.place.name) / "runs" / GOOD).glob("samples-*.parquet")
    content = samples.read_bytes()
    samples.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HistoryError, match=f"the baseline run {GOOD} cannot be read: .*wrong checksum"):
        read_answers.read_declared_baseline(declared.place.name, evaluation, tmp_path / "store")


def test_a_declaration_of_a_job_that_its_run_did_not_evaluate_is_said(
    declared: History, evaluation: Evaluation, tmp_path: Path
) -> None:
    (path,) = (Path(declared.place.name) / "baselines").glob("*.json")
    content = unseal(path.read_bytes())
    path.write_bytes(seal({**content, "evaluations": dict.fromkeys(content["evaluations"], "another-job")}))
    with pytest.raises(HistoryError, match="it did not evaluate another-job"):
        read_answers.read_declared_baseline(declared.place.name, evaluation, tmp_path / "store")


def test_an_earlier_run_with_damaged_questions_does_not_end_the_search_for_a_good_one(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """Its deflate stream is damaged, which zlib says with an error of its own."""
    make_run(tmp_path / "store", GOOD)
    damaged = make_run(tmp_path / "store", "20260101T020000Z-00000003")
    job = evaluation.job.name
    packed = gzip.compress(b"x" * 50)
    (damaged.parent / "samples" / job / "piqa.texts.jsonl.gz").write_bytes(packed[:10] + b"\xff" * (len(packed) - 10))
    side = read_answers.find_last_good(read_answers.Runs(tmp_path / "store"), NOW, evaluation, job, ["piqa"])
    assert side is not None
    assert side.name == f"the good run {GOOD}"
