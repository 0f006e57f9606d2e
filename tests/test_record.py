"""Runs to and from disk."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof import files, record
from scanproof.history.publish import publish
from scanproof.history.storage import open_place
from scanproof.kernels.latency.latency_verdict import (
    Chosen,
    Clock,
    DeviceLimits,
    Latency,
    LatencyBaseline,
    Timing,
    judge,
)
from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.record import Evaluation, RecordError, Run

JOB = EvalJob(
    name="j", model="hf", pretrained="o/m", revision="main", dtype="float32", device="cpu", tasks=("piqa",),
    num_fewshot=0, batch_size=1, model_args=(("add_bos_token", False), ("x", 1.5)),
)  # fmt: skip
MEASUREMENT = Measurement(task="piqa", metric="acc", value=0.5, stderr=None, n_samples=3)
EVALUATION = Evaluation(job=JOB, key="k", measurements=(MEASUREMENT,), samples="s", command="c", environment={"a": [1]})
BASELINE = LatencyBaseline(seconds=(1.0, 1.1, 1.2, 1.0, 1.1), clock_mhz=1980.0, source="f")
LATENCY = Latency(
    id="a", nodeid="n", op="o", direction="backward", kind="cuda", device="d", sizes={"b": 1}, dtype="bfloat16",
    timing=Timing(median=1.0, q1=1.0, q3=1.0, rounds=9, calls=2, noise=0.1, stopped="time", warmup_rounds=2),
    limits=DeviceLimits(bytes_per_s=1.0, flop_per_s={"tf32": 1.0}),
    rate="tf32", clock=Clock(lowest_mhz=1.0, highest_mhz=2.0),
    baseline=BASELINE, verdict=judge(BASELINE, 1.0, 0.1),
)  # fmt: skip
RUN = Run(
    id="r1", started="2026-01-01T00:00:00+00:00", finished=None, strict=False, limit=None, environment={}, records=()
)


@given(st.floats())
def test_every_float_survives_also_those_that_json_lacks(value: float) -> None:
    written = replace(EVALUATION, measurements=(replace(MEASUREMENT, value=value),))
    back = files.from_json(Evaluation, files.to_json(written)).measurements[0].value
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_a_latency_keeps_what_the_autotuner_chose_and_one_of_before_is_read() -> None:
    choices = (
        AutotunerChoice(
            kernel="k", key=("256", "torch.bfloat16"), config={"num_warps": 4, "flag": True, "maxnreg": None}
        ),
    )
    made = replace(
        LATENCY, choices=choices, baseline=replace(BASELINE, chosen=(Chosen(repeats=(1,), choices=choices),))
    )
    assert files.from_json(Latency, files.to_json(made)) == made
    content = json.loads(files.to_json(LATENCY))
    del content["choices"], content["baseline"]["chosen"]
    assert files.from_json(Latency, json.dumps(content)) == LATENCY


def test_a_run_of_before_latencies_can_be_read(tmp_path: Path) -> None:
    content = json.loads(files.to_json(RUN))
    del content["latencies"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    assert record.read_run(path) == RUN


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run = replace(RUN, evaluations=(EVALUATION,), latencies=(LATENCY,))
    path = record.write_run(tmp_path, run)
    assert record.read_run(path) == run
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == ["run.json"]


NOT_AS_WRITTEN = "run.json: it is not as its session wrote it: edited or damaged since then; put an untouched copy"


@given(data=st.data())
def test_a_run_that_was_edited_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is changed: what is still JSON is refused by its digest, with the remedy."""
    path = record.write_run(tmp_path_factory.mktemp("runs"), replace(RUN, evaluations=(EVALUATION,)))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(32, 126).filter(lambda byte: byte != content[place]))
    content[place] = other
    path.write_bytes(content)
    if b'"sha256"' in content:
        with pytest.raises(RecordError):
            record.read_run(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"strict": true', '"strict": false'),
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps({**json.loads(text), "strict": False}, indent=1),
        lambda text: text.replace('"sha256": "', '"sha256": "0')[:-1] + "}",
    ],
    ids=["a value", "formatted", "a value, formatted", "its digest"],
)
def test_an_edited_run_is_refused_with_its_remedy(tmp_path: Path, edit: Callable[[str], str]) -> None:
    path = record.write_run(tmp_path, replace(RUN, strict=True))
    text = path.read_text()
    path.write_text(edit(text))
    assert path.read_text() != text
    with pytest.raises(RecordError, match=re.escape(NOT_AS_WRITTEN)):
        record.read_run(path)
    with pytest.raises(RecordError, match=re.escape(NOT_AS_WRITTEN)):
        publish(path, open_place(str(tmp_path / "history")))


def test_a_run_without_a_digest_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(files.to_json(RUN))
    assert record.read_run(path) == RUN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file: Invalid JSON"),
        (b'{"id": "x"}', "started: Field required"),
        (files.to_json(RUN)[:-40], "the file: Invalid JSON"),
        (files.to_json(replace(RUN, schema_version=99)), "schema_version 99 is newer"),
    ],
)
def test_what_is_no_run_is_named_with_its_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        record.read_run(path)
    assert str(path) in str(caught.value)


def test_the_latest_run_is_not_the_newest_without_a_word(tmp_path: Path) -> None:
    """A session that was killed, one that skipped all, and one whose clock went back."""
    latest = record.write_run(tmp_path, replace(RUN, id="20260102T000000Z-1", latencies=(LATENCY,)))
    assert record.passed_over(latest) == []
    record.write_run(tmp_path, replace(RUN, id="20260103T000000Z-1", finished=None))
    record.write_run(tmp_path, replace(RUN, id="20260104T000000Z-1", finished="2026-01-04T01:00:00+00:00"))
    (tmp_path / "20260105T000000Z-1").mkdir()
    back = record.write_run(tmp_path, replace(RUN, id="20250101T000000Z-1", latencies=(LATENCY,)))
    os.utime(latest, (1e9, 1e9))
    os.utime(back, (1e9 + 1, 1e9 + 1))
    assert record.find_run(tmp_path, "latest") == latest
    assert record.passed_over(latest) == [
        "20250101T000000Z-1 was written later, although its name is earlier: a clock was set, or it ran longer",
        "20260103T000000Z-1 is newer, and measured nothing and did not finish",
        "20260104T000000Z-1 is newer, and measured nothing",
        "20260105T000000Z-1 is newer, and has no run.json",
    ]


def test_runs_are_found_by_path_by_id_and_as_the_latest(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-1", "20260102T000000Z-1"):
        record.write_run(tmp_path, replace(RUN, id=name, latencies=(LATENCY,)))
    # It measured nothing, and is not the latest.
    record.write_run(tmp_path, replace(RUN, id="20260103T000000Z-1"))
    newest = tmp_path / "20260102T000000Z-1" / "run.json"
    assert record.find_run(tmp_path, "latest") == newest
    assert record.find_run(tmp_path, "20260102T000000Z-1") == newest
    assert record.find_run(tmp_path, str(newest)) == newest
    with pytest.raises(RecordError, match=r"no run 'nothing'.*20260102T000000Z-1"):
        record.find_run(tmp_path, "nothing")
