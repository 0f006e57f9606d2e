"""The answers to each document of a task: read from the logs of a run, written to and read from Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof.history.columns import METRIC
from scanproof.history.errors import HistoryError
from scanproof.numbers.verdict.answers import Samples, TaskSamples, digest_lines, parse_number

if TYPE_CHECKING:
    import pyarrow as pa

TASKS = b"scanproof.numbers.expected.tasks"
"""Key of the Parquet file's metadata that holds a row per task, with its digests."""


def from_lines(job: str, task: str, lines: Iterable[Mapping[str, Any]]) -> TaskSamples:
    """Samples from logged documents; raises KeyError, TypeError or ValueError where a line is not a logged document."""
    rows = sorted(lines, key=lambda row: int(row["doc_id"]))
    names = sorted({name for row in rows for name in row["metrics"]})
    return TaskSamples(
        job=job,
        task=task,
        doc_ids=tuple(int(row["doc_id"]) for row in rows),
        documents_hash=digest_lines(f"{row['doc_hash']} {row['target_hash']}" for row in rows),
        prompts_hash=digest_lines(row["prompt_hash"] for row in rows),
        targets=tuple(row["target"] for row in rows),
        loglikelihoods=tuple(tuple(float(value) for value in row["loglikelihoods"]) for row in rows),
        metrics={name: tuple(parse_number(row["metrics"].get(name)) for row in rows) for name in names},
    )


def read_log(job: str, path: Path) -> TaskSamples:
    """One task's log, a line per document.

    Raises HistoryError naming the file when it cannot be read as one.
    """
    try:
        return from_lines(job, path.stem, (json.loads(line) for line in path.read_text().splitlines()))
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{path}: not a log of samples: {type(error).__name__}: {error}") from error


def read_logs(job: str, folder: Path) -> Samples:
    """Every task's log in a folder; raises HistoryError."""
    found = [read_log(job, path) for path in sorted(folder.glob("*.jsonl"))]
    return {(job, task.task): task for task in found}


def to_parquet(samples: Iterable[TaskSamples]) -> bytes:
    """Parquet of all documents, sorted by job and task, with a row per task in its metadata.

    Log-likelihoods are written byte plane by byte plane (BYTE_STREAM_SPLIT): a float64 that holds a float32 then takes
    about the size of a float32.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(samples, key=lambda task: (task.job, task.task))
    names = sorted({name for task in ordered for name in task.metrics})
    table = pa.concat_tables([task_table(task, names) for task in ordered] or [schema(names).empty_table()])
    table = table.replace_schema_metadata({TASKS: json.dumps([task_row(task) for task in ordered])})
    split = ["loglikelihoods.list.element", *(METRIC + name for name in names)]
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=["job", "task"],
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"), row_group_size=1 << 16,
    )  # fmt: skip
    return sink.getvalue()


def schema(names: Sequence[str]) -> pa.Schema:
    """Columns of the samples, with a column per metric."""
    import pyarrow as pa

    columns = [
        ("job", pa.string()),
        ("task", pa.string()),
        ("doc_id", pa.int32()),
        ("target", pa.int16()),
        ("loglikelihoods", pa.list_(pa.float64())),
        *((METRIC + name, pa.float64()) for name in names),
    ]
    return pa.schema(columns)


def task_table(task: TaskSamples, names: Sequence[str]) -> pa.Table:
    """One task's documents."""
    import pyarrow as pa

    size = len(task.doc_ids)
    columns: dict[str, Any] = {
        "job": [task.job] * size,
        "task": [task.task] * size,
        "doc_id": task.doc_ids,
        "target": task.targets,
        "loglikelihoods": [list(values) for values in task.loglikelihoods],
        **{METRIC + name: task.metrics.get(name, (None,) * size) for name in names},
    }
    return pa.table(columns, schema=schema(names))


def read_table(content: bytes) -> pa.Table:
    """A Parquet file in memory, read by the calling thread.

    Arrow's own threads outlive the interpreter now and then, and abort the process at its end.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(content)).read(use_threads=False)


def task_row(task: TaskSamples) -> dict[str, Any]:
    """What identifies a task's documents."""
    return {
        "job": task.job,
        "task": task.task,
        "documents": len(task.doc_ids),
        "documents_hash": task.documents_hash,
        "prompts_hash": task.prompts_hash,
    }


def from_parquet(content: bytes, wanted: set[str] | None = None) -> Samples:
    """The inverse of `to_parquet`; `wanted` names the jobs that are needed."""
    table = read_table(content)
    digests = {(row["job"], row["task"]): row for row in json.loads((table.schema.metadata or {})[TASKS])}
    if wanted is not None:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = table.filter(pc.is_in(table.column("job"), pa.array(sorted(wanted), pa.string())))
    names = [name for name in table.column_names if name.startswith(METRIC)]
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    found: Samples = {}
    start = 0
    while start < table.num_rows:
        key = columns["job"][start], columns["task"][start]
        end = start + int(digests[key]["documents"])
        found[key] = TaskSamples(
            job=key[0],
            task=key[1],
            doc_ids=tuple(columns["doc_id"][start:end]),
            documents_hash=digests[key]["documents_hash"],
            prompts_hash=digests[key]["prompts_hash"],
            targets=tuple(columns["target"][start:end]),
            loglikelihoods=tuple(tuple(values) for values in columns["loglikelihoods"][start:end]),
            metrics={
                name.removeprefix(METRIC): tuple(columns[name][start:end])
                for name in names
                if any(value is not None for value in columns[name][start:end])
            },
        )
        start = end
    return found
