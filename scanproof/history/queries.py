"""The questions that are asked of a history, each a function with its SQL.  DuckDB answers them; no server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scanproof.history import run_failures
from scanproof.history.columns import METRIC, NUMBERS
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published
from scanproof.numbers.verdict.outcome import number_outcome

Rows = list[dict[str, Any]]
RUN_COLUMNS = ("run", "started", "branch", "gpu", "finished", "strict", "numbers", "failed", "failures", "outcomes")


def ask(sql: str, tables: Mapping[str, str], parameters: Sequence[Any] = ()) -> Rows:
    """The rows that DuckDB answers; `tables` are views, a name and its query each.

    Raises HistoryError when DuckDB cannot read a file that is what was written.
    """
    import duckdb

    # Without the switch DuckDB imports pandas, to look for tables among Python's variables.
    with duckdb.connect(config={"threads": 2, "python_enable_replacements": False}) as connection:
        try:
            for name, query in tables.items():
                connection.execute(f"CREATE VIEW {name} AS {query}")
            answer = connection.execute(sql, list(parameters))
            names = [column[0] for column in answer.description or ()]
            return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        except duckdb.Error as error:
            raise HistoryError(f"DuckDB cannot answer: {str(error).splitlines()[0]}") from error


def quoted(text: str) -> str:
    """A string as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def parquet(paths: Sequence[str], options: str = "") -> str:
    """A query over Parquet files."""
    return f"SELECT * FROM read_parquet([{', '.join(map(quoted, paths))}]{options})"


def numbers(history: History, runs: Sequence[Published]) -> str:
    """A query over the numbers of several runs."""
    paths = history.files(runs, "numbers")
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in NUMBERS.items())
    return parquet(paths) if paths else f"SELECT {columns} WHERE false"


def run_row(run: Published) -> dict[str, Any]:
    """A run as `scanproof history` lists it."""
    manifest = run.manifest
    source = manifest["environment"].get("source") or {}
    outcomes: dict[str, int] = manifest["outcomes"]
    return {
        "run": run.id,
        "started": run.started,
        "branch": source.get("branch"),
        "commit": source.get("commit"),
        "gpu": run.gpu,
        "finished": manifest["finished"] is not None,
        "strict": manifest["strict"],
        "limit": manifest["limit"],
        "numbers": sum(outcomes.values()),
        "failed": sum(count for name, count in outcomes.items() if number_outcome(name).needs_triage),
        # Why it is not green, line by line; None where its manifest, of before November 2026, does not say it.
        "failures": run_failures.list_published_failures(manifest),
        "outcomes": ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
        "packages": manifest["environment"].get("packages") or {},
    }


def select(
    runs: Sequence[Published], *, gpu: str | None = None, branch: str | None = None, packages: Sequence[str] = ()
) -> list[Published]:
    """Runs on a GPU whose name holds `gpu`, of a branch, with packages such as `torch=2.13` (a beginning is enough).

    Raises HistoryError for a package that is not written so.
    """
    wanted = [package.partition("=") for package in packages]
    if any(not (name and version) for name, _, version in wanted):
        raise HistoryError(f"--package is written name=version, such as torch=2.13; not {', '.join(packages)}")

    def fits(run: Published) -> bool:
        row = run_row(run)
        return (
            (gpu is None or gpu.lower() in row["gpu"].lower())
            and (branch is None or branch == row["branch"])
            and all(begins(row["packages"].get(name), version) for name, _, version in wanted)
        )

    return [run for run in runs if fits(run)]


def begins(version: str | None, wanted: str) -> bool:
    """2.13 is the beginning of 2.13.0, not of 2.130."""
    return version is not None and (version == wanted or version.startswith((f"{wanted}.", f"{wanted}+")))


def verdicts(history: History, run: Published) -> Rows:
    """Every number of a run with what both gates said."""
    return ask("SELECT * FROM numbers ORDER BY job, task, metric, id", {"numbers": numbers(history, [run])})


def trend(history: History, runs: Sequence[Published], number: str) -> Rows:
    """One number over the nights, oldest first."""
    sql = """
        SELECT runs.started, runs.run, id, measured, expected, allowed, outcome, gate, documents
        FROM numbers JOIN runs ON numbers.run = runs.run
        WHERE id = ? ORDER BY runs.started, runs.run
    """
    return ask(sql, {"numbers": numbers(history, runs), "runs": runs_table(runs)}, [number])


def runs_table(runs: Sequence[Published]) -> str:
    """A query over runs with what they are filtered by."""
    names = ("run", "started", "branch", "gpu")
    rows = json.dumps([{name: row[name] for name in names} for row in map(run_row, runs)])
    kinds = json.dumps([dict.fromkeys(names, "VARCHAR")])
    return f"SELECT unnest(from_json({quoted(rows)}, {quoted(kinds)}), recursive := true)"


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Rows:
    """What differs between the environments of two runs."""
    old, new = flat(before), flat(now)
    return [
        {"what": key, "before": old.get(key), "now": new.get(key)}
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def flat(content: Any, prefix: str = "") -> dict[str, str]:
    """`packages.torch` -> `2.13.0`; what is absent is left out."""
    items: Any = content.items() if isinstance(content, Mapping) else enumerate(content)
    row: dict[str, str] = {}
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            row.update(flat(value, f"{prefix}{key}."))
        elif value is not None:
            row[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return row


def flipped(history: History, before: Published, now: Published, job: str, task: str, metric: str) -> Rows:
    """Documents of a task whose score differs between two runs, with their answers' log-likelihoods.

    Raises HistoryError when the samples of a run are not there, or hold no such task or metric.
    """
    score = f'"{METRIC}{metric}"'
    sql = f"""
        SELECT doc_id, now.target, before.{score} AS score_before, now.{score} AS score_now,
               before.loglikelihoods AS loglikelihoods_before, now.loglikelihoods AS loglikelihoods_now
        FROM before JOIN now USING (doc_id)
        WHERE before.{score} IS DISTINCT FROM now.{score} ORDER BY doc_id
    """
    views = {name: task_samples(history, run, job, task) for name, run in (("before", before), ("now", now))}
    for name, run in (("before", before), ("now", now)):
        if not ask(f"SELECT 1 FROM {name} LIMIT 1", {name: views[name]}):
            raise HistoryError(f"the run {run.id} holds no samples of {task} in {job}")
    return ask(sql, views)


def task_samples(history: History, run: Published, job: str, task: str) -> str:
    """A query over the documents of one task of one run; raises HistoryError when its samples are not there."""
    paths = history.files([run], "samples")
    if not paths:
        why = "were pruned" if run.samples_pruned else f"cannot be read: {history.problems[-1]}"
        raise HistoryError(f"the samples of {run.id} {why}")
    return f"{parquet(paths)} WHERE job = {quoted(job)} AND task = {quoted(task)}"


def latency_trend(history: History, runs: Sequence[Published]) -> Rows:
    """Every timed kernel case of every run, oldest first; empty where nothing was timed."""
    timed = [run for run in runs if run.file("latencies") is not None]
    paths = history.files(timed, "latencies")
    if not paths:
        return []
    sql = "SELECT runs.started, runs.gpu AS run_gpu, latencies.* FROM latencies JOIN runs ON latencies.run = runs.run"
    # Kernels come and go, and so do their columns: one that a file lacks is empty there.
    views = {"latencies": parquet(paths, ", union_by_name = true"), "runs": runs_table(timed)}
    return ask(f"{sql} ORDER BY runs.started, runs.run", views)
