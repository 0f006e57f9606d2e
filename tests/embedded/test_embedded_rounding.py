"""What rounding does to the stand-ins: measured for each of them, against the answers that are recorded now."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.embedded import record, rounding
from scanproof.embedded.record import list_stand_ins
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.rounding import HIGHEST_CEILING, TABLE, MeasuredRounding, digest_answers, find_ceiling
from scanproof.record import Evaluation

FOLDER = Path(__file__).parents[2] / "expected" / "embedded"
STAND_INS = {stand_in.name: stand_in for stand_in in list_stand_ins()}
ROWS = {row.name: row for row in MeasuredRounding.read(TABLE)}
SMALL_CHANGE = 5.6e-5
"""Nats: a change of the weights by this much passed when all stand-ins had one ceiling of 0.001."""
LARGER = {"pythia-tiny": 6e-5}
"""Where rounding alone is measured to move answers by more than half of that, nats that are beyond it."""


def test_each_stand_in_has_one_row() -> None:
    assert list(ROWS) == list(STAND_INS)
    assert f"`{rounding.COMMAND}`" in TABLE.read_text().splitlines()[0]


@pytest.mark.parametrize("name", STAND_INS)
def test_rounding_was_measured_against_the_answers_that_are_recorded_now(name: str) -> None:
    recorded = rounding.read_recorded(FOLDER / f"{name}{ANSWERS}")
    assert ROWS[name].recorded == digest_answers(recorded)
    assert ROWS[name].answers == rounding.count_answers(recorded)


@pytest.mark.parametrize("name", STAND_INS)
def test_the_ceiling_follows_from_what_was_measured_and_a_small_change_is_beyond_it(name: str) -> None:
    stand_in = STAND_INS[name]
    job = record.make_job(stand_in, record.ZERO_SHOT, 0)
    evaluation = Evaluation(job=job, key="k", measurements=(), samples="", command="", environment={"device": "cpu"})
    ceiling = find_ceiling(evaluation)
    assert ceiling == ROWS[name].ceiling
    assert 2 * ROWS[name].largest <= ceiling < LARGER.get(name, SMALL_CHANGE) < HIGHEST_CEILING


def test_the_ways_hold_every_vector_path_and_both_engines() -> None:
    assert {way.simd for way in rounding.WAYS} == {"default", "avx2", "avx512"}
    assert {way.engine for way in rounding.WAYS} == {"plain", "shared"}
    assert len({way.threads for way in rounding.WAYS}) > 1
    assert len({way.batch_size for way in rounding.WAYS}) > 2


def test_the_table_was_measured_in_the_ways_of_today() -> None:
    """A way that is added, or another batch size, is measured, or the table says what it does not hold."""
    lines = TABLE.read_text().splitlines()
    assert [line.removeprefix("# - ") for line in lines if line.startswith("# - ")] == list(map(str, rounding.WAYS))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors have other names")
@pytest.mark.parametrize("simd", sorted({way.simd for way in rounding.WAYS}))
def test_a_way_takes_the_vector_instructions_that_it_names(simd: str) -> None:
    """torch does what it is told, whether the CPU can or not; only one that can may compute so."""
    show = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    with rounding.set_variables(ATEN_CPU_CAPABILITY=simd):
        said = subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    assert said == simd.upper()


def test_a_way_that_the_cpu_cannot_compute_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert rounding.list_simd()[0] == "default"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert rounding.list_simd() == ("default", "avx2")
    with pytest.raises(ValueError, match=r"avx512, 1 thread, .*: this machine's CPU has no avx512; measure on one"):
        rounding.measure_way([], rounding.WAYS[0], {}, tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    assert rounding.list_simd() == ("default",)


def test_the_largest_move_of_real_answers_is_found(tmp_path: Path) -> None:
    stand_in = STAND_INS["pythia-tiny"]
    jobs = [record.make_job(stand_in, ("piqa",), 0)]
    every = rounding.read_recorded(FOLDER / f"pythia-tiny{ANSWERS}")
    recorded = {key: values for key, values in every.items() if key[0] == "piqa"}
    way = replace(rounding.WAYS[0], simd="default", tasks=("piqa",))
    assert jobs == rounding.list_jobs(stand_in, way)
    assert recorded == rounding.select_answers(every, way)
    assert 0.0 < rounding.measure_way(jobs, way, recorded, tmp_path) <= ROWS["pythia-tiny"].largest
    first, *rest = recorded["piqa", 7]
    moved = recorded | {("piqa", 7): [first - 0.5, *rest]}
    assert rounding.measure_way(jobs, way, moved, tmp_path) == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(ValueError, match="no finite number"):
        rounding.measure_way(jobs, way, recorded | {("piqa", 7): [math.nan, *rest]}, tmp_path)
    with pytest.raises(ValueError, match="other than those"):
        rounding.measure_way(jobs, way, every, tmp_path)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "rounding.yaml"
    path.write_text(rounding.format_table(list(ROWS.values())))
    assert MeasuredRounding.read(path) == tuple(ROWS.values())


def measure_some(table: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the command that writes the table, from a folder without recorded answers: it may measure nothing."""
    options = ["--table", str(table), "--folder", str(table.parent)]
    options += [part for name in names for part in ("--model", name)]
    command = [sys.executable, "-m", "scanproof.embedded.rounding", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_stand_in_that_is_not_known_is_refused_and_the_table_stays(tmp_path: Path) -> None:
    path = tmp_path / "rounding.yaml"
    path.write_text("# an old table\n")
    done = measure_some(path, "mamba1-tiny", "no-such")
    assert done.returncode == 2, done.stderr
    assert done.stderr == "--model: there is no stand-in no-such\n"
    assert path.read_text() == "# an old table\n"


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("# Python ", "# Python 2.7.18, torch 0.4.0."),
        (f"# - {rounding.WAYS[-1]}", "# - by hand"),
        (f"# - {rounding.WAYS[-1]}", f"# - {rounding.WAYS[-1]}\n# - by hand"),
        ("# Written by", f"# Written by `{rounding.COMMAND}` on 2026-11-26, float32 on a CPU, vax,"),
    ],
)
def test_rows_that_were_measured_elsewhere_stay_under_their_own_header(tmp_path: Path, line: str, other: str) -> None:
    path = tmp_path / "rounding.yaml"
    path.write_text(rounding.format_table(list(ROWS.values())))
    assert [chosen.name for chosen in rounding.choose_stand_ins(["pythia-tiny"], path)] == ["pythia-tiny"]
    path.write_text("\n".join(other if old.startswith(line) else old for old in path.read_text().splitlines()))
    with pytest.raises(ValueError, match=r"rounding\.yaml: the rows that would stay .* leave out --model"):
        rounding.choose_stand_ins(["pythia-tiny"], path)
    assert [chosen.name for chosen in rounding.choose_stand_ins([], path)] == list(STAND_INS)
