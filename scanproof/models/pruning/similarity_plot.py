"""The similarity of a model's layers and the blocks that it chooses, drawn with matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scanproof.models.pruning.blocks import Block, PruningError

SUFFIXES = (".svg", ".png", ".pdf")
COLOURS = (("#fbdfcc", "#d55e00"), ("#cce3f0", "#0072b2"), ("#ccece3", "#009e73"), ("#f5e4ed", "#cc79a7"))
"""(area, line) of the cuts, apart for the colour-blind too (Okabe and Ito); they come again after four."""


def check_target(path: Path) -> None:
    """Raise PruningError for a file that could not be drawn: before the zigzag file is read, which takes a while."""
    if path.suffix not in SUFFIXES:
        raise PruningError(f"--plot {path}: ends with none of {', '.join(SUFFIXES)}, which say what is to be drawn")
    if not path.parent.is_dir():
        raise PruningError(f"--plot {path}: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401 - asked for before the work is done
    except ImportError:
        raise PruningError(
            f"--plot {path}: needs matplotlib, which is not installed: pip install 'scanproof[plot]'"
        ) from None


def draw(path: Path, curve: Sequence[float], cuts: Mapping[float, Block], title: str) -> None:
    """Write the plot to `path`, in the format of its suffix.

    Args:
        curve: similarity of each layer, the final norm last.
        cuts: the block chosen by each share p of the highest similarity.

    Raises:
        PruningError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    last = len(curve) - 1
    # Wide blocks first: the narrower ones lie upon them.
    for number, (p, block) in enumerate(sorted(cuts.items())):
        area, line = COLOURS[number % len(COLOURS)]
        label = f"p = {p:g}: layers {block} removed, {block.size} of {last}"
        axes.axvspan(block.start - 0.5, block.end + 0.5, color=area, linewidth=0, label=label)
        axes.axhline(p * max(curve), color=line, linestyle="--", linewidth=1)
    axes.plot(range(last), curve[:-1], color="black", marker="o", markersize=3.5, linewidth=1.2)
    axes.plot([last], curve[-1:], color="black", marker="D", markersize=5, markerfacecolor="white", linestyle="none")
    axes.annotate("final norm", (last, curve[-1]), xytext=(0, 8), textcoords="offset points", ha="right")
    axes.set(title=title, xlabel="layer", ylabel="similarity r, dashed: p of its highest", xlim=(-0.7, last + 0.7))
    axes.set_ylim(0, 1.08 * max(curve))
    axes.legend(loc="lower right", frameon=True)
    axes.grid(axis="y", alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise PruningError(f"--plot {path}: cannot be written: {error.strerror or error}") from error
