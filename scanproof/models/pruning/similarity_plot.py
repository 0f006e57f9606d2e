"""Plot the similarity of a model's layers and the chosen blocks, with matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scanproof.models.pruning.blocks import LayerBlock, PruningError

SUFFIXES = (".svg", ".png", ".pdf")
COLOURS = (("#fbdfcc", "#d55e00"), ("#cce3f0", "#0072b2"), ("#ccece3", "#009e73"), ("#f5e4ed", "#cc79a7"))
"""(area, line) colours of the cuts, which the colour-blind can tell apart (Okabe and Ito); repeated after four."""


def check_target(path: Path) -> None:
    """Raise PruningError where the plot could not be written; called before the zigzag file, which is slow to read."""
    if path.suffix not in SUFFIXES:
        raise PruningError(f"--plot {path}: ends with none of {', '.join(SUFFIXES)}, which say what is to be drawn")
    if not path.parent.is_dir():
        raise PruningError(f"--plot {path}: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401 - checks that it is installed
    except ImportError:
        raise PruningError(
            f"--plot {path}: needs matplotlib, which is not installed: pip install 'scanproof[plot]'"
        ) from None


def draw(path: Path, curve: Sequence[float], cuts: Mapping[float, LayerBlock], title: str) -> None:
    """Write the plot to `path`, in the format of its suffix.

    Args:
        curve: similarity of each layer, the final norm last.
        cuts: share p of the highest similarity -> the block that it chooses.

    Raises:
        PruningError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    last = len(curve) - 1
    # Wide blocks first, so that the narrow ones are drawn over them.
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
