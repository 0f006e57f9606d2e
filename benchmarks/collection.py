"""Time and memory of collecting published numbers: `python benchmarks/collection.py`.

Collects 385, 10,000 and 100,000 numbers with `pytest --collect-only`, each in a process of its own, beside a peer: the
same number of parametrized tests with integers as parameters, which is what pytest itself costs.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from scanproof.numbers.expected.folders import copy_shared

ROOT = Path(__file__).parents[1]
SIZES = (385, 10_000, 100_000)
PER_FILE = 38
PEER = """
import pytest

@pytest.mark.parametrize("number", range({count}), ids=[f"model-{{n}}-arc_easy-acc-paper" for n in range({count})])
def test_number(number):
    pass
"""
TASKS = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "openbookqa")
METRICS = ("acc", "acc_norm")


def write_expected(folder: Path, count: int) -> None:
    """A folder of `count` numbers in the form of `expected/`, some 38 to a file."""
    document = folder / "003-benchmark"
    document.mkdir(parents=True)
    source = ROOT / "expected"
    copy_shared(source, folder)
    shutil.copy(source / "003-mamba-7b" / "document.yaml", document)
    document_file = document / "document.yaml"
    text = re.sub(r"(?s)\nfindings:.*", "\n", document_file.read_text())
    document_file.write_text(re.sub(r"(?m)^numbers: \d+", f"numbers: {count}", text))
    constants = folder / "tolerance.yaml"
    constants.write_text(re.sub(r"(?m)^checks: \d+", f"checks: {count}", constants.read_text()))
    job = "job: {model: hf, revision: main, dtype: float32, num_fewshot: 0, batch_size: 8}\n"
    for start in range(0, count, PER_FILE):
        head = f'document: "003"\nmodel: model-{start}\nhub_id: org/model-{start}\n{job}values:\n'
        rows = [value_row(number) for number in range(min(PER_FILE, count - start))]
        (document / f"model-{start}.yaml").write_text(head + "".join(rows))


def value_row(number: int) -> str:
    """One value; no two of a file agree in task, metric and suffix."""
    task = TASKS[number % len(TASKS)]
    metric = METRICS[number // len(TASKS) % len(METRICS)]
    return (
        f'  - {{task: {task}, metric: {metric}, line: {number + 1}, origin: author, printed: "{number}.5", '
        f"unit: percent, suffix: s{number // (len(TASKS) * len(METRICS))}}}\n"
    )


def collect(folder: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of one collection; raises CalledProcessError when it fails."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "-p",
        "no:cacheprovider",
        "-c",
        "pytest.ini",
        ".",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SCANPROOF_")}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, peak_bytes(usage)


def peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepare(folder: Path, count: int) -> tuple[Path, Path]:
    """Folders of the suite and of its peer."""
    ours, peer = folder / f"ours-{count}", folder / f"peer-{count}"
    for each in (ours, peer):
        each.mkdir()
        (each / "pytest.ini").write_text("[pytest]\n")
    write_expected(ours / "expected", count)
    shutil.copy(ROOT / "tests" / "published" / "test_published.py", ours)
    (peer / "test_numbers.py").write_text(PEER.format(count=count))
    return ours, peer


def main(repeats: Annotated[int, typer.Option(help="Runs of each; the median is shown.")] = 3) -> None:
    """Print a row per size: seconds, microseconds per number, peak memory, ratio to plain pytest."""
    typer.echo(f"{'numbers':>8} {'seconds':>8} {'us/number':>10} {'peak MiB':>9} {'pytest alone':>13} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        for count in SIZES:
            ours, peer = prepare(Path(name), count)
            runs = [(collect(ours), collect(peer)) for _ in range(repeats)]
            seconds = sorted(run[0][0] for run in runs)[repeats // 2]
            alone = sorted(run[1][0] for run in runs)[repeats // 2]
            peak = max(run[0][1] for run in runs)
            typer.echo(
                f"{count:>8} {seconds:>8.2f} {seconds / count * 1e6:>10.0f} {peak / 2**20:>9.0f} {alone:>13.2f} "
                f"{seconds / alone:>6.2f}"
            )


if __name__ == "__main__":
    typer.run(main)
