"""The tables of docs/planted-faults.md, as `scanproof exam --format markdown` printed them."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "planted-faults.md"


def read_rows() -> list[list[str]]:
    """The cells of each row, of all tables."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def read_first_checks() -> dict[tuple[str, str], str]:
    """Fault and operation -> id of the check that saw it first."""
    return {(fault.strip("`"), op): f"{op}-{first}" for fault, op, *_, first, _ in read_rows()}
