"""The answers to each document of a task: read from the logs of a run, written to and read from Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof import files
from scanproof.history.columns import METRIC
from scanproof.history.errors import HistoryError
from scanproof.numbers.verdict.answers import Samples, TaskSamples, digest_lines, parse_number

if TYPE_CHECKING:
    import pyarrow as pa

EVIDENCE = ("right", "lengths", "greedy")
"""Fields from which, with the answers, each document's score can be made again."""
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
        questions_hash=hash_questions(rows),
        targets=tuple(row["target"] for row in rows),
        loglikelihoods=tuple(tuple(float(value) for value in row["loglikelihoods"]) for row in rows),
        metrics={name: tuple(parse_number(row["metrics"].get(name)) for row in rows) for name in names},
        right=tuple(read_right(row) for row in rows),
        lengths=tuple(read_lengths(row) for row in rows),
        greedy=tuple(read_greedy(row) for row in rows),
    )


def read_right(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Indices of the right answers of a logged document; a log of another program may hold the target alone."""
    answers, target = len(row["loglikelihoods"]), row.get("target")
    if "right" not in row:
        return (int(target),) if target is not None and 0 <= int(target) < answers else None
    if row["right"] is None:
        return None
    right = tuple(int(index) for index in row["right"])
    # Where there is a single answer, a task's own number may stand here: it is no index, and nothing reads it.
    if answers > 1 and not all(0 <= index < answers for index in right):
        raise ValueError(f"doc_id {row['doc_id']}: right {list(right)} are no indices of its {answers} answers")
    return right


def read_lengths(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Length of each answer of a logged document, in characters."""
    if row.get("lengths") is None:
        return None
    lengths, answers = tuple(int(length) for length in row["lengths"]), len(row["loglikelihoods"])
    # A text that the model writes has a length and no log-likelihood.
    if answers and (len(lengths) != answers or min(lengths) < 0):
        raise ValueError(f"doc_id {row['doc_id']}: lengths {list(lengths)} are not those of its {answers} answers")
    return lengths


def read_greedy(row: Mapping[str, Any]) -> bool | None:
    """Whether the only answer of a logged document is greedy; None where there are several."""
    kept = [bool(greedy) for greedy in row.get("is_greedy") or []]
    return kept[0] if len(kept) == 1 else None


def hash_questions(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Digest of what was asked; None where a line does not hold it."""
    hashes = [row.get("question_hash") for row in rows]
    return None if None in hashes else digest_lines(map(str, hashes))


def read_log(job: str, path: Path) -> TaskSamples:
    """One task's log, a line per document.

    Raises HistoryError naming the file when it cannot be read as one.
    """
    try:
        return from_lines(job, path.stem, map(files.parse_json, files.read_text(path).splitlines()))
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{path}: not a log of samples: {type(error).__name__}: {error}") from error


def read_logs(job: str, folder: Path) -> Samples:
    """Every task's log in a folder; raises HistoryError."""
    logs = [read_log(job, path) for path in sorted(folder.glob("*.jsonl"))]
    return {(job, task.task): task for task in logs}


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
        ("right", pa.list_(pa.int16())),
        ("lengths", pa.list_(pa.int32())),
        ("greedy", pa.bool_()),
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
        **{name: getattr(task, name) or (None,) * size for name in EVIDENCE},
        **{METRIC + name: task.metrics.get(name, (None,) * size) for name in names},
    }
    return pa.table(columns, schema=schema(names))


def read_table(content: bytes) -> pa.Table:
    """A Parquet file in memory, read by the calling thread.

    A thread of Arrow that lets go of a buffer of Python's while the interpreter ends aborts the process.  Reading in
    other threads is switched off twice: for decoding, and for fetching ahead, which `use_threads` leaves on.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)


def task_row(task: TaskSamples) -> dict[str, Any]:
    """What identifies a task's documents."""
    return {
        "job": task.job,
        "task": task.task,
        "documents": len(task.doc_ids),
        "documents_hash": task.documents_hash,
        "prompts_hash": task.prompts_hash,
        "questions_hash": task.questions_hash,
    }


def as_tuple(kept: Sequence[int] | None) -> tuple[int, ...] | None:
    """A list out of a column, where there is one."""
    return None if kept is None else tuple(kept)


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
    samples: Samples = {}
    start = 0
    while start < table.num_rows:
        key = columns["job"][start], columns["task"][start]
        end = start + int(digests[key]["documents"])
        samples[key] = TaskSamples(
            job=key[0],
            task=key[1],
            doc_ids=tuple(columns["doc_id"][start:end]),
            documents_hash=digests[key]["documents_hash"],
            prompts_hash=digests[key]["prompts_hash"],
            questions_hash=digests[key].get("questions_hash"),
            targets=tuple(columns["target"][start:end]),
            loglikelihoods=tuple(tuple(values) for values in columns["loglikelihoods"][start:end]),
            # Absent from files until November 2026.
            right=tuple(map(as_tuple, columns.get("right", ())[start:end])),
            lengths=tuple(map(as_tuple, columns.get("lengths", ())[start:end])),
            greedy=tuple(columns.get("greedy", ())[start:end]),
            metrics={
                name.removeprefix(METRIC): tuple(columns[name][start:end])
                for name in names
                if any(value is not None for value in columns[name][start:end])
            },
        )
        start = end
    return samples
