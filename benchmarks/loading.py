"""Time and memory of loading a checkpoint against transformers: `python benchmarks/loading.py`.

Per family a random checkpoint, loaded in fresh processes, ours and transformers' `from_pretrained` in turn, of the same
bytes, which lie in the page cache.  A hybrid of MambaInLlama has no class in transformers: beside it stands a Llama of
its size.  Loading ends when every page of every weight has been read once, so that a loader which maps the file and
leaves the reading to the first batch gains nothing.  Memory is the peak beyond what the process held after its imports,
in units of the weights as loaded; pages of a mapped file count.  Linux only.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from loading_families import FAMILIES, Family, transformers_load
from resident import begin_peak, resident

PAGE = 4096
DTYPES = "bfloat16:bfloat16,bfloat16:float32"
"""Stored and loaded."""


@dataclass(frozen=True)
class Cost:
    """What one loading took."""

    seconds: float
    processor: float
    """Seconds of processor time: what other processes on the machine take does not count."""
    memory: float
    """Peak in units of the weights."""
    weights: int
    """Bytes, as loaded."""


def cost(family: str | None, small: Path, folder: Path, dtype: torch.dtype) -> Cost:
    """Load `folder` in this process, after `small`; with transformers when no family is named."""
    quiet()
    load = named(family).load if family else transformers_load
    read(load(small, dtype))
    before = begin_peak()
    began, worked = time.perf_counter(), time.process_time()
    model = load(folder, dtype)
    read(model)
    spent = time.perf_counter() - began, time.process_time() - worked
    weights = sum(weight.nbytes for weight in model.parameters())
    return Cost(*spent, (resident("VmHWM") - before) / weights, weights)


def named(family: str) -> Family:
    return next(row for row in FAMILIES if row.name == family)


@torch.no_grad()
def read(model: Any) -> None:
    """Touch every page of the weights."""
    for weight in model.parameters():
        weight.reshape(-1)[:: PAGE // weight.itemsize].sum()


def fresh(family: str | None, small: Path, folder: Path, dtype: torch.dtype) -> Cost:
    """`cost` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cost, family, small, folder, dtype).result()


def quiet() -> None:
    """No progress bars and no advice from transformers."""
    import transformers

    # Its functions have no annotations.
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def make(family: str, folder: Path, size: int, dtype: torch.dtype) -> None:
    """Write a checkpoint of one layer and a large one for both sides, and read the files once."""
    quiet()
    for name, wanted in (("small", 0), ("large", size)):
        named(family).make(folder / f"{name}-ours", folder / f"{name}-theirs", wanted, dtype)
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def row(family: Family, stored: torch.dtype, loaded: torch.dtype, size: int, repeats: int) -> str:
    """One line of the table: medians."""
    theirs: list[Cost] = []
    ours: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(make, family.name, folder, size, stored).result()
        for _ in range(repeats):
            theirs.append(fresh(None, folder / "small-theirs", folder / "large-theirs", loaded))
            ours.append(fresh(family.name, folder / "small-ours", folder / "large-ours", loaded))
    kinds = "->".join(str(dtype).removeprefix("torch.") for dtype in (stored, loaded))
    line = f"{family.name:<16} {kinds:<19} {ours[0].weights / 1e6:>5.0f}"
    for field in ("seconds", "processor", "memory"):
        a, b = (statistics.median(getattr(each, field) for each in costs) for costs in (theirs, ours))
        line += f" {a:>8.2f} {b:>6.2f} {b / a:>6.2f}"
    return line


def main(
    repeats: Annotated[int, typer.Option(help="Pairs of processes; medians are shown.")] = 5,
    size: Annotated[int, typer.Option(help="MB of a checkpoint as stored, about.")] = 300,
    family: Annotated[str, typer.Option(help="Only families whose name holds this.")] = "",
    dtypes: Annotated[str, typer.Option(help="Pairs of stored and loaded.")] = DTYPES,
) -> None:
    """Print a row per family and pair of dtypes: transformers', ours and the ratio of each measure."""
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    typer.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    columns = "".join(f" {name:>8} {'ours':>6} {'ratio':>6}" for name in ("wall s", "cpu s", "memory"))
    typer.echo(f"{'family':<16} {'stored -> loaded':<19} {'MB':>5}{columns}")
    for chosen in FAMILIES:
        for pair in dtypes.split(",") if family in chosen.name else ():
            stored, loaded = (getattr(torch, name) for name in pair.split(":"))
            typer.echo(row(chosen, stored, loaded, size * 10**6, repeats))


if __name__ == "__main__":
    typer.run(main)
