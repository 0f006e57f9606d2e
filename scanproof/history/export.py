"""A history as one table of runs and one of numbers, for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from scanproof.history import queries
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published

FORMATS = {
    "parquet": "(FORMAT parquet, COMPRESSION zstd)",
    "csv": "(FORMAT csv, HEADER)",
    "json": "(FORMAT json, ARRAY true)",
}
"""DuckDB's options of COPY."""
RUNS = {
    "run": "VARCHAR", "started": "VARCHAR", "branch": "VARCHAR", "commit": "VARCHAR", "gpu": "VARCHAR",
    "finished": "BOOLEAN", "strict": "BOOLEAN", "limit": "INTEGER", "numbers": "INTEGER", "failed": "INTEGER",
    "failures": "VARCHAR", "outcomes": "VARCHAR", "packages": "VARCHAR",
}  # fmt: skip
"""Columns of the runs."""


def write(history: History, runs: Sequence[Published], folder: Path, style: str) -> list[Path]:
    """Write runs and numbers; returns the files.  Raises HistoryError for an unknown format, OSError."""
    if style not in FORMATS:
        raise HistoryError(f"--as is one of {', '.join(FORMATS)}, not {style!r}")
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"runs": runs_query(runs), "numbers": queries.numbers(history, runs)}
    files = []
    for name, table in tables.items():
        file = folder / f"{name}.{style}"
        queries.ask(f"COPY exported TO {queries.quoted(str(file))} {FORMATS[style]}", {"exported": table})
        files.append(file)
    return files


def runs_query(runs: Sequence[Published]) -> str:
    """A query over everything that is known of the runs."""
    kinds = json.dumps([RUNS])
    rows = [
        {**row, **{name: None if row[name] is None else json.dumps(row[name]) for name in ("packages", "failures")}}
        for row in map(queries.run_row, runs)
    ]
    return f"SELECT unnest(from_json({queries.quoted(json.dumps(rows))}, {queries.quoted(kinds)}), recursive := true)"
