"""From a run in a local store to the history: its files, then its manifest."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof import __version__, record
from scanproof.history import kept_files, run_failures, samples, store
from scanproof.history.columns import NUMBERS
from scanproof.history.errors import HistoryError
from scanproof.history.storage import Place, sha256
from scanproof.numbers.verdict import answers
from scanproof.record import Record, Run

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = {"VARCHAR": "string", "DOUBLE": "double", "INTEGER": "int32", "BOOLEAN": "bool"}


def publish(run_file: Path, place: Place) -> str:
    """Put a run of a local store into the history; returns its id.

    Repeating it is harmless.  Raises record.RecordError or HistoryError; nothing exists for readers then.
    """
    content = read(run_file)
    run = record.parse_run(content, str(run_file))
    put(place, run, content, samples.to_parquet(sample_files(run, run_file.parent)))
    return run.id


def read(path: Path) -> bytes:
    """A file's bytes; raises record.RecordError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise record.RecordError(f"{path}: cannot be read: {error.strerror}") from error


def put(place: Place, run: Run, content: bytes, parquet: bytes) -> None:
    """Write a run's files, its manifest last; raises HistoryError."""
    files = {"run.json": content, "numbers.parquet": numbers_parquet(run), "samples.parquet": parquet}
    rows = [{**row, "run": run.id} for row in latency_rows(content)]
    if rows:
        files["latencies.parquet"] = rows_parquet(rows)
    named = {unique_name(name, data): data for name, data in files.items()}
    for name, data in named.items():
        place.add(f"runs/{run.id}/{name}", data)
    earlier = earlier_manifest(place, run.id)
    if earlier is None:
        place.add(f"runs/{run.id}/{store.MANIFEST}", store.seal(manifest(run, named)))
    elif set(earlier["files"]) != set(named):
        raise HistoryError(f"{place.shown('runs', run.id)} is there already, with other contents: it never changes")


def earlier_manifest(place: Place, run: str) -> dict[str, Any] | None:
    """The manifest of a run that was published before, or None."""
    content = place.read([f"runs/{run}/{store.MANIFEST}"])[0]
    return None if isinstance(content, FileNotFoundError) else store.unseal(content)


def unique_name(name: str, content: bytes) -> str:
    """`numbers.parquet` -> `numbers-1b9c04d2e5f6.parquet`: other bytes are another file."""
    stem, _, suffix = name.partition(".")
    return f"{stem}-{sha256(content)[:12]}.{suffix}"


def manifest(run: Run, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What a list of runs needs without opening anything else."""
    return {
        "format": store.FORMAT,
        "run": run.id,
        "schema_version": run.schema_version,
        "started": run.started,
        "finished": run.finished,
        "strict": run.strict,
        "limit": run.limit,
        "selected": run.selected,
        "outcomes": dict(Counter(kept.outcome for kept in run.records)),
        "joint": dict(Counter(comparison.outcome.value for comparison in run.joint)),
        "failures": run_failures.list_failures(run),
        "failed_tests": len(run.failed_tests),
        "exit_code": run.exit_code,
        "environment": run.environment,
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "scanproof": __version__,
        "files": {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()},
    }


def sample_files(run: Run, folder: Path) -> list[answers.TaskSamples]:
    """The logs of every evaluation of the run, from beside the run: stores are moved, absolute paths are not.

    Raises HistoryError where they are gone, cannot be read, or are not those that were measured.
    """
    logged: answers.Samples = {}
    for evaluation in run.evaluations:
        logs = kept_files.find_folder(folder, evaluation)
        if not logs.is_dir():
            raise HistoryError(f"{logs}: the samples of {evaluation.job.name} are not there; the run is not whole")
        kept_files.require_measured_files(evaluation, logs)
        logged.update(samples.read_logs(evaluation.job.name, logs))
    return list(logged.values())


def number_row(run: Run, kept: Record, documents: Mapping[tuple[str, str, str], int]) -> dict[str, Any]:
    """One number as the columns of `numbers` have it."""
    verdict, gate = kept.verdict, kept.gate
    tests = [test.p_value for test in gate.tests if test.p_value is not None] if gate else []
    plain = {name: getattr(kept, name) for name in NUMBERS if hasattr(kept, name) and name != "gate"}
    return {
        **plain,
        "run": run.id,
        "expected": verdict.expected if verdict else None,
        "measured": verdict.measured if verdict else None,
        "difference": verdict.difference if verdict else None,
        "allowed": verdict.allowance.total if verdict and verdict.allowance else None,
        "documents": documents.get((kept.job, kept.task, kept.metric)),
        "documents_moved": verdict.documents_moved if verdict else None,
        "sigmas": verdict.sigmas if verdict else None,
        "gate": gate.outcome.value if gate else None,
        "gate_because": gate.because if gate else None,
        "gate_p": min(tests, default=None),
    }


def numbers_parquet(run: Run) -> bytes:
    """A row per number."""
    documents = {
        (evaluation.job.name, measurement.task, measurement.metric): measurement.n_samples
        for evaluation in run.evaluations
        for measurement in evaluation.measurements
    }
    return write(numbers_table(number_row(run, kept, documents) for kept in run.records))


def numbers_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as the columns of `numbers`."""
    import pyarrow as pa

    kept = list(rows)
    kinds = pa.schema([(name, pa.type_for_alias(ARROW[kind])) for name, kind in NUMBERS.items()])
    return pa.table({name: [row[name] for row in kept] for name in NUMBERS}, schema=kinds)


def latency_rows(content: bytes) -> list[dict[str, Any]]:
    """The run's timed kernel cases, as flat rows; empty where nothing was timed."""
    return [flat(entry) for entry in json.loads(content).get("latencies") or ()]


def flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `outer_inner`, lists as JSON; what is absent is left out."""
    row: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            row.update(flat(value, f"{prefix}{key}_"))
        elif value is not None:
            row[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return row


def rows_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as Parquet, a column per key."""
    import pyarrow as pa

    names = sorted({name for row in rows for name in row})
    return write(pa.table({name: [row.get(name) for row in rows] for name in names}))


def write(table: pa.Table) -> bytes:
    """A table as Parquet."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
