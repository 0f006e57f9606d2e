"""Blocks of layers by zigzag persistence: the table of the real files, the definition, and every mistake."""

from __future__ import annotations

import csv
import gzip
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.models.pruning import similarity_plot
from scanproof.models.pruning.blocks import (
    Bars,
    LayerBlock,
    PruningError,
    choose_block,
    choose_by_persistence,
    compute_similarity,
    group_layers,
    read_zigzag,
)
from tests.support.command_line import scanproof

DATA = Path(__file__).parents[1] / "data" / "zigzag"
PATH = Path("zigzag.csv")
# arXiv 2410.11042's cuts of five models: layers, first and last layer removed at p = 0.9 and at 0.8.
TABLE = [
    ("llama2_7b", 32, "20-27", "18-29"),
    ("llama2_13b", 40, "25-36", "21-38"),
    ("llama3_8b", 32, "20-28", "17-30"),
    ("mistral", 32, "20-29", "19-30"),
    ("pythia", 32, "19-29", "16-31"),
]


def original(name: str, folder: Path) -> Path:
    """The published file, restored from the counts of its rows."""
    path = folder / f"{name}.csv.gz"
    counts = DATA / f"{name}_pile_knn_5_dim_4.counts.csv.gz"
    with gzip.open(counts, "rt") as source, gzip.open(path, "wt", compresslevel=1) as target:
        target.write("dimension,birth,death\n")
        for row in csv.DictReader(source):
            target.write(f"{row['dimension']},{row['birth']},{row['death']}\n" * int(row["count"]))
    return path


def written(folder: Path, *rows: str, header: str = "dimension,birth,death") -> Path:
    path = folder / "zigzag.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def prune_plan(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    return scanproof("prune-plan", *arguments, expect=expect)


@pytest.mark.parametrize(("name", "layers", "ten", "twenty"), TABLE)
def test_the_published_files_give_the_published_cuts(
    tmp_path: Path, name: str, layers: int, ten: str, twenty: str
) -> None:
    path = original(name, tmp_path)
    assert str(choose_by_persistence(path, layers, 0.9)) == ten
    assert str(choose_by_persistence(path, layers, 0.8)) == twenty


@st.composite
def diagrams(draw: st.DrawFn) -> tuple[int, list[Bars]]:
    layers = draw(st.integers(1, 5))
    end = 2 * (layers + 1)
    bars = [Bars(1, 1, end, 1)]
    for _ in range(draw(st.integers(0, 8))):
        birth = draw(st.integers(1, end - 1))
        death = draw(st.integers(birth + 1, end))
        bars.append(Bars(draw(st.integers(0, 2)), birth, death, draw(st.integers(1, 4))))
    return layers, bars


@given(diagrams())
def test_similarity_is_the_mean_of_shared_features(case: tuple[int, list[Bars]]) -> None:
    """r(i) = mean_j S(i, j) / beta1(j), computed directly from the definitions."""
    layers, bars = case
    size = layers + 1
    ones = [(bar.birth, bar.death) for bar in bars if bar.dimension == 1 for _ in range(bar.count)]
    beta1 = [sum(birth <= 2 * layer + 1 < death for birth, death in ones) for layer in range(size)]
    steps = [(math.ceil((birth - 1) / 2), math.ceil((death - 1) / 2)) for birth, death in ones]

    def shared(i: int, j: int) -> int:
        return sum(b <= min(i, j) and d > max(i, j) for b, d in steps if b != d)

    expected = [sum(shared(i, j) / beta1[j] for j in range(size)) / size for i in range(size)]
    assert compute_similarity(bars, layers, PATH) == pytest.approx(expected)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_runs_cover_their_layers(layers: set[int]) -> None:
    found = list(group_layers(sorted(layers)))
    assert [layer for run in found for layer in range(run.start, run.end + 1)] == sorted(layers)
    assert all(second.start > first.end + 1 for first, second in pairwise(found))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,1,8", "2,3,5"], "zigzag.csv: no interval of dimension 1"),
        (["1,1,8", "1,-3,5"], r"zigzag.csv:3: birth -3: times begin with 1"),
        (["1,1,8", "1,5,3"], r"zigzag.csv:3: the interval dies at 3, not after its birth at 5"),
        (["1,1,8", "1,5,5"], r"zigzag.csv:3: the interval dies at 5, not after its birth at 5"),
        (["1,1,8", "-1,5,6"], r"zigzag.csv:3: dimension -1 is negative"),
        (["1,1,8", "1,2.5,6"], r"zigzag.csv:3: '1,2.5,6' is not three integers"),
        (["1,1,8", "1,2"], r"zigzag.csv:3: '1,2' is not three integers"),
        (["1,1,10"], "ends at time 10, which is that of 4 layers; a model of 3 layers ends at 8"),
        (["1,1,6"], "ends at time 6, which is that of 2 layers; a model of 3 layers ends at 8"),
        (["1,1,7"], "ends at time 7, which no complete file has"),
        (["0,1,8", "1,1,6"], "no interval of dimension 1 is alive at layer 3"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        choose_by_persistence(written(tmp_path, *rows), 3, 0.9)


@pytest.mark.parametrize("header", ["birth,death,dimension", "0,1,8", ""])
def test_another_header_is_told(tmp_path: Path, header: str) -> None:
    with pytest.raises(PruningError, match=f"zigzag.csv:1: the header is {header!r}; .* dimension,birth,death"):
        read_zigzag(written(tmp_path, "1,1,8", header=header))


def test_files_that_are_no_csv_are_told(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="there is no such file"):
        read_zigzag(tmp_path / "absent.csv")
    damaged = tmp_path / "zigzag.csv.gz"
    damaged.write_bytes(gzip.compress(b"dimension,birth,death\n" + b"1,1,8\n" * 5000)[:-12])
    with pytest.raises(PruningError, match=r"zigzag\.csv\.gz: cannot be read"):
        read_zigzag(damaged)
    damaged.write_bytes(b"dimension,birth,death\n")
    with pytest.raises(PruningError, match=r"zigzag\.csv\.gz: cannot be read"):
        read_zigzag(damaged)
    damaged.with_suffix("").write_bytes(b"\xff\xfe")
    with pytest.raises(PruningError, match=r"zigzag\.csv: cannot be read"):
        read_zigzag(damaged.with_suffix(""))


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_plot_is_drawn(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the extra `plot`")
    zigzag = written(tmp_path, "1,1,10", "1,3,7", "1,3,7")
    path = tmp_path / f"plot.{suffix}"
    said = prune_plan("--zigzag", str(zigzag), "--layers", "4", "--plot", str(path))
    assert f"drawn in {path}" in said.stdout
    if suffix == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
        return
    text = path.read_text()
    # matplotlib draws text as shapes and writes the text itself as a comment.
    for label in ("zigzag.csv", "p = 0.9: layers 1-2 removed, 2 of 4", "p = 0.8: layers 1-2 removed", "final norm"):
        assert f"<!-- {label}" in text, label


@pytest.mark.parametrize(
    ("name", "message"), [("plot.gif", "ends with none of .svg, .png, .pdf"), ("absent/plot.svg", "there is no folder")]
)
def test_a_plot_that_cannot_be_drawn_is_told_at_once(tmp_path: Path, name: str, message: str) -> None:
    said = prune_plan("--zigzag", "absent.csv", "--layers", "4", "--plot", str(tmp_path / name), expect=2)
    assert message in said.stderr


def test_a_plot_without_matplotlib_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PruningError, match=r"needs matplotlib, .* pip install 'scanproof\[plot\]'"):
        similarity_plot.check_target(tmp_path / "plot.svg")


def test_layers_that_are_no_block_are_listed() -> None:
    with pytest.raises(PruningError, match="are 0-1, 3-3, not one block"):
        choose_block([1.0, 0.9, 0.1, 1.0, 0.2], 0.9, PATH)
    with pytest.raises(PruningError, match="which is the final norm's"):
        choose_block([0.1, 0.2, 1.0], 0.9, PATH)
    for p in (0.0, 1.5, math.nan):
        with pytest.raises(PruningError, match=f"p={p:g}: expected"):
            choose_block([1.0, 0.5], p, PATH)


def test_the_final_norm_is_never_cut_and_equality_counts() -> None:
    assert choose_block([0.5, 0.9, 1.0, 1.0], 0.9, PATH) == LayerBlock(1, 2)
    assert choose_block([0.5, 0.9, 1.0, 1.0], 0.5, PATH) == LayerBlock(0, 2)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (LayerBlock(-1, 2), "0 to 7"),
        (LayerBlock(3, 8), "0 to 7"),
        (LayerBlock(5, 4), "may not lie behind"),
        (LayerBlock(0, 7), "every"),
    ],
)
def test_a_block_that_the_model_lacks_is_refused(block: LayerBlock, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        block.check(8)
    LayerBlock(3, 3).check(8)


def test_prune_plan_prints_the_cuts_and_the_curve(tmp_path: Path) -> None:
    path = str(original("mistral", tmp_path))
    shown = prune_plan("--zigzag", path, "--layers", "32").stdout.splitlines()
    assert shown[-2:] == [
        "p = 0.9: layers 20-29 are removed, 10 of 32",
        "p = 0.8: layers 19-30 are removed, 12 of 32",
    ]
    marks = {line.split()[0]: line.split().count("cut") for line in shown[1:-2]}
    assert marks == {str(n): (n in LayerBlock(20, 29)) + (n in LayerBlock(19, 30)) for n in range(32)} | {"norm": 0}
    bars = {line.split()[0]: line.count("█") for line in shown[1:-2]}
    assert max(bars, key=bars.__getitem__) in {"23", "24", "25"}
    assert max(bars.values()) == 40
    found = json.loads(prune_plan("--zigzag", path, "--layers", "32", "--p", "0.9", "--format", "json").stdout)
    assert found["cuts"] == [{"p": 0.9, "start_block": 20, "end_block": 29, "layers": 10}]
    assert len(found["similarity"]) == 33
    table = prune_plan("--zigzag", path, "--layers", "32", "--format", "csv").stdout.splitlines()
    assert table == ["p,start_block,end_block,layers", "0.9,20,29,10", "0.8,19,30,12"]


def test_prune_plan_tells_mistakes_without_a_traceback(tmp_path: Path) -> None:
    path = str(written(tmp_path, "1,1,8"))
    assert "which is that of 3 layers" in prune_plan("--zigzag", path, "--layers", "4", expect=2).stderr
    assert "p=2: expected a share" in prune_plan("--zigzag", path, "--layers", "3", "--p", "2", expect=2).stderr
