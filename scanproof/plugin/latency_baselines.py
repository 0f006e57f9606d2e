"""Which baseline a latency is compared with, and what it means that there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scanproof.numbers.verdict.outcome import LatencyOutcome
from scanproof.plugin.session import Session

if TYPE_CHECKING:
    from scanproof.kernels.latency.baseline_files import BaselineFile
    from scanproof.kernels.latency.latency_verdict import Latency

RECORD = "--scanproof-record-latency"


def baseline_path(session: Session, kind: str, device: str) -> Path | None:
    """Where the baselines of a device lie; None without a folder of expected values.

    Those of a CPU stay in the store: they are for trying the path, and never lie beside those of a GPU.
    """
    from scanproof.kernels.latency import baseline_files

    given = session.settings
    if kind != "cuda":
        return given.store / baseline_files.FOLDER / "cpu.json"
    return given.expected / baseline_files.FOLDER / baseline_files.file_name(device) if given.expected else None


def judge(session: Session, measured: Latency) -> Latency:
    """A measurement with its verdict; raises baseline_files.BaselineError for a file that cannot be used."""
    from scanproof.kernels.latency import baseline_files, latency_verdict

    outcomes = LatencyOutcome
    if measured.outcome == outcomes.WRONG.value:
        return measured
    if measured.timing is None:
        return replace(measured, outcome=outcomes.NOT_MEASURED.value)
    if measured.provider:
        because = f"baselines are of what is installed; {measured.provider} is timed beside it"
        return replace(measured, outcome=outcomes.NO_BASELINE.value, because=because)
    if session.settings.record_latency:
        return replace(measured, outcome=outcomes.RECORDED.value)
    if because := latency_verdict.why_the_host_was_timed(measured.timing):
        return replace(measured, outcome=outcomes.NOT_MEASURED.value, because=because)
    path = baseline_path(session, measured.kind, measured.device)
    device_file = baseline_files.read_for_device(path, measured.kind, measured.device) if path else None
    baseline = device_file.credible_baseline(measured, path) if device_file and path else None
    if baseline is None:
        return judge_without(session, measured, path, device_file)
    verdict = latency_verdict.judge(baseline, measured.timing.median, measured.timing.noise, measured.clock)
    return replace(measured, outcome=verdict.outcome.value, because=verdict.because, baseline=baseline, verdict=verdict)


def judge_without(session: Session, measured: Latency, path: Path | None, device_file: BaselineFile | None) -> Latency:
    """A measurement that has no baseline: under strict not measured, where it has to have one."""
    ended = device_file.without.get(measured.id) if device_file else None
    missed = None
    if ended is None and session.settings.strict:
        missed = why_baseline_is_missed(session, measured, path, device_file)
    if missed is not None:
        return replace(measured, outcome=LatencyOutcome.NOT_MEASURED.value, because=missed)
    because = f"{measured.device} has no baseline of this case; {RECORD} records them"
    if ended is not None:
        because = f"{path}: without: {ended}"
    return replace(measured, outcome=LatencyOutcome.NO_BASELINE.value, because=because)


def why_baseline_is_missed(
    session: Session, measured: Latency, path: Path | None, device_file: BaselineFile | None
) -> str | None:
    """Why a latency has to have a baseline, or may, and what to do; None where it never had one, nor other cases have.

    A file of baselines that is lost, recorded anew without the case, or of a GPU that is called otherwise does not
    switch the comparison off.  Without a file of the device, a comparison on any device of the kind counts; with one,
    also those on devices whose own file is gone.
    """
    compared = session.compared_latencies.get((measured.kind, measured.id), {})
    from scanproof.history.due_before import MEND_RUN, describe_unread

    mend = (
        f"bring it back to {path or 'the expected values'}, or record this device's with {RECORD}; to compare it no "
        'more, write "without": {"CASE": "WHY"} into this device\'s file'
    )
    none = f"{measured.device} has no baseline of this case"
    owed = {
        run: device
        for device, run in compared.items()
        if device == measured.device or device_file is None or not has_file(session, measured.kind, device)
    }
    if owed:
        run = max(owed)
        where = "" if owed[run] == measured.device else f" on {owed[run]}"
        return f"{none}, and run {run} had one{where}: {mend}"
    others = sorted(other.name for other in path.parent.glob("*.json")) if path and not path.is_file() else []
    if others:
        return f"{measured.device} has no baselines, and other devices have ({', '.join(others)}): {mend}"
    if unread := session.earlier_runs.unread:
        return f"{none}, and it is not known whether it had one: {describe_unread(unread)}; {MEND_RUN}"
    return None


def has_file(session: Session, kind: str, device: str) -> bool:
    """Whether a device has a file of baselines."""
    path = baseline_path(session, kind, device)
    return path is not None and path.is_file()
