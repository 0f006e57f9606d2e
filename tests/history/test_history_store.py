"""A history that many machines write to at once: what is whole is read, what is not is named and skipped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scanproof import files
from scanproof.history import queries, store
from scanproof.history.errors import HistoryError
from scanproof.history.publish import publish
from scanproof.history.storage import open_place
from scanproof.history.store import History, open_history
from scanproof.record import SCHEMA_VERSION, RecordError, read_run
from tests.support.small_history import filled, make_run

FIRST, SECOND, THIRD = (f"2026010{day}T010000Z-0000000{day}" for day in (1, 2, 3))
DATA = Path(__file__).parents[1] / "data" / "runs"
NUMBER = "mamba-130m-piqa-acc-reproduced"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A local folder, and a bucket that lives in memory."""
    if request.param == "folder":
        yield str(tmp_path / "history")
        return
    name = f"memory://{uuid.uuid4().hex}/history"
    yield name
    import fsspec

    fsspec.filesystem("memory").store.clear()


def published(tmp_path: Path, place: str, *names: str) -> History:
    history = open_history(place)
    for name in names:
        publish(make_run(tmp_path / "store", name), history.place)
    return history


def file_of(history: History, run: str, kind: str) -> Path:
    """The file of a kind, in a folder."""
    return next((Path(history.place.root) / "runs" / run).glob(f"{kind}*"))


def test_runs_are_read_back_from_folders_and_buckets(tmp_path: Path, place: str) -> None:
    history = published(tmp_path, place, SECOND, FIRST)
    runs = open_history(place).runs()
    assert [run.id for run in runs] == [FIRST, SECOND]
    assert runs[0].gpu == "NVIDIA H200"
    assert [row["measured"] for row in queries.trend(history, runs, NUMBER)] == [0.75, 0.75]
    assert len(queries.verdicts(history, runs[0])) == 1
    assert history.problems == []
    assert [path for path in history.place.sizes("runs") if "part" in path] == []


def test_publishing_twice_is_harmless(tmp_path: Path, place: str) -> None:
    history = published(tmp_path, place, FIRST)
    before = history.place.sizes("")
    publish(tmp_path / "store" / "runs" / FIRST / "run.json", history.place)
    assert history.place.sizes("") == before


def test_a_published_run_never_changes(tmp_path: Path, place: str) -> None:
    history = published(tmp_path, place, FIRST)
    shutil.rmtree(tmp_path / "store")
    other = make_run(tmp_path / "store", FIRST, strict=False)
    with pytest.raises(HistoryError, match="never changes"):
        publish(other, history.place)
    assert open_history(place).runs()[0].manifest["strict"] is True


def test_an_empty_or_missing_history_has_no_runs(place: str) -> None:
    history = open_history(place)
    assert history.runs() == []
    assert queries.trend(history, [], "x") == []
    with pytest.raises(HistoryError, match=r"no run 'latest'.*none yet"):
        history.find("latest")


def test_runs_are_found_by_id_by_its_beginning_and_as_the_latest(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    assert history.find("latest").id == history.find(SECOND).id == history.find("20260102").id == SECOND
    with pytest.raises(HistoryError, match="several runs begin with '2026'"):
        history.find("2026")


@pytest.mark.parametrize("how", ["manifest cut", "manifest gone", "samples gone"])
def test_the_latest_run_is_not_the_one_before_a_damaged_one(tmp_path: Path, how: str) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    kind, _, what = how.partition(" ")
    file = file_of(history, SECOND, kind)
    content = file.read_bytes()
    file.unlink()
    if what == "cut":
        file.write_bytes(content[:300])
    with pytest.raises(HistoryError, match=f"which run is the latest is not known: .*{SECOND}"):
        history.find("latest")
    assert history.find(FIRST).id == FIRST
    publish(make_run(tmp_path / "store", THIRD), history.place)
    assert history.find("latest").id == THIRD, "what is older hides nothing"


@pytest.mark.parametrize("kind", ["numbers", "samples", "run"])
@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_named_and_its_run_skipped(tmp_path: Path, kind: str, how: str) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    file = file_of(history, FIRST, kind)
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    runs = history.runs()
    for run in runs:
        history.read(run, kind)
    measured = [row["run"] for row in queries.trend(history, runs, NUMBER)]
    assert SECOND in measured
    if how != "changed":
        assert [run.id for run in runs] == [SECOND], "its length says so before it is read"
    elif kind == "numbers":
        assert measured == [SECOND]
    said = [str(problem) for problem in history.problems]
    assert len(said) == 1
    assert file.name in said[0]
    assert {"missing": "is missing", "truncated": "bytes of", "changed": "wrong checksum"}[how] in said[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut short"),
        (b'{"format": 1, "run": "x"', "cut short"),
        (b"[1]", "cut short or no file of this kind"),
        (files.to_sorted_json({"format": 1, "sha256": "0" * 64}), "wrong checksum"),
        (store.seal({"format": 99}), "format 99, newer than this scanproof reads"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    file_of(history, FIRST, "manifest").write_bytes(content)
    assert [run.id for run in history.runs()] == [SECOND]
    assert said in str(history.problems[0])
    assert FIRST in history.problems[0].path
    with pytest.raises(HistoryError, match="cannot be used"):
        history.find(FIRST)


def test_the_manifest_of_another_run_is_no_manifest(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    root = Path(history.place.root) / "runs"
    shutil.copytree(root / FIRST, root / SECOND)
    assert [run.id for run in history.runs()] == [FIRST]
    assert "is the manifest of" in str(history.problems[0])


def test_a_publication_that_was_stopped_is_named(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    file_of(history, FIRST, "manifest").unlink()
    assert [run.id for run in history.runs()] == [SECOND]
    assert "its publication was stopped" in str(history.problems[0])
    publish(tmp_path / "store" / "runs" / FIRST / "run.json", history.place)
    assert [run.id for run in open_history(history.place.name).runs()] == [FIRST, SECOND], "again is enough"


@pytest.mark.parametrize(("age", "lost"), [(timedelta(hours=1), False), (timedelta(days=3), True)])
def test_a_publication_that_was_stopped_long_ago_is_lost(tmp_path: Path, age: timedelta, lost: bool) -> None:
    """A night whose manifest is gone was taken for one that is still being written, at any age."""
    name = f"{datetime.now(UTC) - age:%Y%m%dT%H%M%SZ}-00000001"
    history = filled(tmp_path, name)
    file_of(history, name, "manifest").unlink()
    assert history.runs() == []
    assert [(name in problem.path, problem.lost) for problem in history.problems] == [(True, lost)]


def test_a_run_that_is_a_link_to_a_folder_is_read(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    folder = Path(history.place.root) / "runs" / FIRST
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert [run.id for run in history.runs()] == [FIRST, SECOND]
    assert history.problems == []


@pytest.mark.parametrize("target", ["nowhere", "itself", "runs", "a folder without a run"])
def test_a_link_that_leads_to_no_run_is_lost(tmp_path: Path, target: str) -> None:
    history = filled(tmp_path, FIRST)
    runs = Path(history.place.root) / "runs"
    empty = tmp_path / "a folder without a run"
    empty.mkdir()
    (runs / SECOND).symlink_to({"itself": runs / SECOND, "runs": runs}.get(target, tmp_path / target))
    assert [run.id for run in history.runs()] == [FIRST]
    assert [(SECOND in problem.path, problem.lost) for problem in history.problems] == [(True, True)]


def test_a_run_of_tomorrow_is_kept_and_its_clock_named(tmp_path: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(days=2)
    history = open_history(str(tmp_path / "history"))
    publish(make_run(tmp_path / "store", FIRST, started=ahead.isoformat()), history.place)
    assert [run.id for run in history.runs()] == [FIRST]
    assert "starts in the future" in str(history.problems[0])


def publish_some(place: str, folder: str, names: list[str]) -> None:
    for name in names:
        publish(make_run(Path(folder), name), open_place(place))


def test_many_processes_publish_at_once_without_a_lock(tmp_path: Path) -> None:
    place = str(tmp_path / "history")
    context = multiprocessing.get_context("spawn")
    names = [[f"2026020{process}T0{run}0000Z-{process}{run}" for run in range(4)] for process in range(1, 5)]
    workers = [
        context.Process(target=publish_some, args=(place, str(tmp_path / f"store{index}"), mine))
        for index, mine in enumerate(names)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    history = open_history(place)
    assert [run.id for run in history.runs()] == sorted(name for mine in names for name in mine)
    assert len(queries.trend(history, history.runs(), NUMBER)) == 16
    assert history.problems == []


def test_many_processes_publish_the_same_run_at_once(tmp_path: Path) -> None:
    """A session and a person who tries again: one run comes out, and nobody sees an error."""
    make_run(tmp_path / "store", FIRST)
    place = tmp_path / "history"
    place.mkdir()
    command = [sys.executable, "-m", "scanproof", "history", "add", FIRST,
               "--store", str(tmp_path / "store"), "--history", str(place)]  # fmt: skip
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 3, errors
    assert [run.id for run in open_history(str(place)).runs()] == [FIRST]


KILLED = """
    import sys, time
    from pathlib import Path
    from scanproof import files
    from scanproof.history import storage as place
    from scanproof.history.publish import publish
    whole = files.add_atomically
    def slow(path, content):
        if path.name.startswith(sys.argv[3]):
            print("now", flush=True)
            time.sleep(600)
        whole(path, content)
    files.add_atomically = slow
    publish(Path(sys.argv[1]), place.open_place(sys.argv[2]))
"""


@pytest.mark.parametrize("before", ["run", "samples", "manifest"])
def test_a_publisher_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, before: str) -> None:
    history = filled(tmp_path, FIRST)
    run = make_run(tmp_path / "store", SECOND)
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(run), history.place.name, before]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [each.id for each in history.runs()] == [FIRST]
    assert [SECOND in problem.path for problem in history.problems] == ([True] if before != "run" else [])
    publish(run, history.place)
    assert [each.id for each in open_history(history.place.name).runs()] == [FIRST, SECOND]


def test_a_file_that_is_still_being_written_is_not_seen(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    folder = Path(history.place.root) / "runs" / FIRST
    (folder / ".manifest.json.abc.part").write_bytes(b"half")
    assert [run.id for run in history.runs()] == [FIRST]
    assert history.problems == []


def test_a_reader_sees_whole_runs_only_while_others_write(tmp_path: Path) -> None:
    place = str(tmp_path / "history")
    names = [f"2026030{day}T010000Z-{day}" for day in range(1, 8)]
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=publish_some, args=(place, str(tmp_path / "store"), names))
    worker.start()
    seen = 0
    while worker.is_alive() and seen < len(names):
        history = open_history(place)
        runs = history.runs()
        assert all(history.read(run, kind) is not None for run in runs for kind in ("run", "numbers", "samples"))
        seen = len(runs)
        time.sleep(0.01)
    worker.join()
    assert worker.exitcode == 0
    assert len(open_history(place).runs()) == len(names)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(HistoryError, match="cannot be written: Permission denied"):
        publish(make_run(tmp_path / "store", FIRST), open_place(str(locked / "history")))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "h" / "runs"
    folder.parent.mkdir()
    folder.symlink_to(folder)
    with pytest.raises(HistoryError, match=r"h/runs cannot be listed: Too many levels of symbolic links"):
        open_history(str(tmp_path / "h")).runs()


@pytest.mark.parametrize("name", ["nosuch://bucket/history"])
def test_a_url_that_nothing_here_can_open_is_named(name: str) -> None:
    with pytest.raises(HistoryError, match="cannot be opened"):
        open_place(name)


def test_samples_that_are_gone_stop_a_publication(tmp_path: Path) -> None:
    run = make_run(tmp_path / "store", FIRST)
    shutil.rmtree(run.parent / "samples")
    history = open_history(str(tmp_path / "history"))
    with pytest.raises(HistoryError, match=r"the samples of .* are not there"):
        publish(run, history.place)
    assert history.runs() == []


def test_a_run_of_a_newer_schema_is_not_published(tmp_path: Path) -> None:
    run = make_run(tmp_path / "store", FIRST)
    run.write_text(json.dumps({**json.loads(run.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(RecordError, match="newer than this scanproof reads"):
        publish(run, open_place(str(tmp_path / "history")))


def test_the_third_version_keeps_what_both_engines_measured() -> None:
    run = read_run(DATA / "v3" / "run.json")
    (evaluation,) = run.evaluations
    assert evaluation.replaced is not None
    assert evaluation.replaced.scoring is not None
    assert evaluation.replaced.because.keys() == {kept.id for kept in run.records}
    for kept in run.records:
        assert kept.verdict is not None
        assert kept.verdict.engines is not None
        assert kept.verdict.engines.disagree
        assert kept.verdict.engines.apart


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_schema_version_is_read_and_published(tmp_path: Path, version: int) -> None:
    """The files are real runs, written by the code of that version."""
    file = DATA / f"v{version}" / "run.json"
    run = read_run(file)
    assert run.schema_version == version
    history = open_history(str(tmp_path / "history"))
    publish(file, history.place)
    rows = queries.verdicts(history, history.runs()[0])
    assert [row["id"] for row in rows] == sorted(kept.id for kept in run.records)
    outcome, gate, engine = {
        1: ("REPRODUCED", None, "plain"),
        2: ("REPRODUCED", "SAME", "plain"),
        3: ("ENGINES_DISAGREE", "SAME", "plain"),
        4: ("COMPARISON_MISSING", "REFUSED", "plain"),
    }[version]
    assert {row["outcome"] for row in rows} == {outcome}
    assert [each.engine for each in run.evaluations] == [engine]
    assert [row["gate"] for row in rows] == [gate] * len(rows)


def test_a_sealed_file_that_is_nested_too_deeply_is_damaged() -> None:
    with pytest.raises(HistoryError, match="is cut short or no file of this kind"):
        store.unseal(b"[" * 100_000)
