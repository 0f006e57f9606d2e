"""The main job on the real stand-ins, as a newcomer runs it: lm-eval, a worker process, verdicts, a record."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from scanproof.record import read_run
from tests.support.embedded_session import ROOT, RUNS, command, embedded
from tests.support.small_jobs import wait_until
from tests.support.small_mirror import HANGS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_the_stand_in_comes_out_and_a_second_call_reuses_it(store: Path, request: pytest.FixtureRequest) -> None:
    first, shown = embedded(store, "-k", "mamba1-tiny and piqa")
    assert [record.outcome for record in first.records] == ["REPRODUCED"] * 2
    assert "[1/1] embedded-mamba1-tiny-0shot: scoring" in shown, "progress while it works"
    # The first was as a user's in every way; the imports of those after it are there.
    request.getfixturevalue("warm_copies")
    second, _ = embedded(store, "-k", "mamba1-tiny and piqa")
    assert [record.reused for record in first.records] == [False, False]
    assert [record.reused for record in second.records] == [True, True]
    assert [r.verdict for r in second.records] == [r.verdict for r in first.records]
    third, _ = embedded(store, "-k", "mamba1-tiny and piqa", "--scanproof-fresh")
    assert [record.reused for record in third.records] == [False, False]
    assert [r.verdict for r in third.records] == [r.verdict for r in first.records]


def test_with_two_processes_each_job_runs_once(store: Path) -> None:
    run, _ = embedded(
        store, "-k", "(mamba2-tiny or pythia-tiny) and not without and (openbookqa or winogrande)", "-n", "2"
    )
    assert len(run.records) == 6
    assert len({record.evaluation_key for record in run.records}) == 2
    assert not any(record.reused for record in run.records)
    assert {record.outcome for record in run.records} == {"REPRODUCED"}


def test_a_killed_worker_is_an_error_and_the_next_session_is_whole(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arguments = ["-k", "mamba2-tiny and piqa", "-v"]
    session = subprocess.Popen(
        command(tmp_path, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    victim = worker_of(session)
    os.kill(victim, signal.SIGKILL)
    shown, _ = session.communicate()
    assert session.returncode == pytest.ExitCode.TESTS_FAILED
    assert "killed by SIGKILL" in shown
    (path,) = tmp_path.glob(RUNS)
    assert {record.outcome for record in read_run(path).records} == {"ERROR"}
    request.getfixturevalue("warm_copies")
    run, _ = embedded(tmp_path, *arguments)
    assert {record.outcome for record in run.records} == {"REPRODUCED"}


def worker_of(session: subprocess.Popen[str]) -> int:
    """Process id of the worker below a pytest session, as soon as there is one."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if is_worker(entry, session.pid)]
        return bool(found) or session.poll() is not None

    assert wait_until(look), "no worker was started"
    assert found, f"the session ended with {session.returncode} before there was a worker"
    return found[0]


def is_worker(entry: Path, parent: int) -> bool:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
        status = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return b"scanproof.evaluation.worker.run" in arguments and int(status[1]) == parent


@pytest.mark.usefixtures("warm_copies")
def test_a_flipped_byte_in_a_checkpoint_is_seen(tmp_path: Path) -> None:
    """The same job on a copy of the checkpoint with the last bit of one weight changed."""
    from scanproof import embedded as stand_ins
    from scanproof.embedded.record import list_stand_ins as all_stand_ins
    from scanproof.embedded.record import make_job
    from scanproof.evaluation.evaluate_job import evaluate
    from scanproof.evaluation.request import Settings

    mirror = tmp_path / "mirror"
    stand_in = next(each for each in all_stand_ins() if each.name == "mamba1-tiny")
    (mirror / "scanproof").mkdir(parents=True)
    (mirror / "baber").symlink_to(stand_ins.MIRROR / "baber")
    shutil.copytree(stand_ins.MIRROR / stand_in.hub_id, mirror / stand_in.hub_id)
    settings = Settings(store=tmp_path / "store", mirror=mirror, fresh=False, timeout=HANGS, session="test")
    piqa = make_job(stand_in, ("piqa",), 0)
    first = evaluate(piqa, settings, progress=lambda _: None)
    weights = mirror / stand_in.hub_id / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 4 * 2] ^= 1
    weights.write_bytes(content)
    second = evaluate(piqa, settings, progress=lambda _: None)
    assert second.key != first.key
    assert not second.reused
    assert any("model.safetensors" in reason for reason in second.environment["recomputed_because"])
