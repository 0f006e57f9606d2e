"""Reads and writes latency baselines: one JSON file per device, written by one session, checked when it is read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from scanproof.files import replace_atomically
from scanproof.kernels.latency.latency_verdict import (
    FEWEST_REPEATS,
    MOST_APART,
    Chosen,
    DeviceLimits,
    Latency,
    LatencyBaseline,
    Timing,
    why_not_credible,
    why_the_host_was_timed,
)
from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.expected import folders

FOLDER = folders.LATENCIES
AGAIN = "remove the file and record its baselines again: --scanproof-record-latency"
QUIET = "record again on a quiet device"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BaselineError(Exception):
    """A baseline file cannot be used; the message names the file, the key and what is wrong."""


class BaselineForm(BaseModel):
    """Base of the file's parts: keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DeviceForm(BaselineForm):
    """The device on which the latencies were measured."""

    kind: Literal["cuda", "cpu"]
    name: Annotated[str, Field(min_length=1)]
    driver: str | None = None


class LimitsForm(BaselineForm):
    """The limits of the device, measured in the same session; see `DeviceLimits`."""

    bytes_per_s: Positive
    flop_per_s: dict[str, Positive]


class ChoiceForm(BaselineForm):
    """What an autotuner chose for a kernel; see `AutotunerChoice`."""

    kernel: str
    key: tuple[str, ...]
    config: dict[str, str | int | float | bool | None]


class ChosenForm(BaselineForm):
    """What the autotuners chose for a case, and the numbers of the repeats that chose it, from 1."""

    repeats: Annotated[tuple[int, ...], Field(min_length=1)]
    choices: tuple[ChoiceForm, ...]


def why_too_far_apart(seconds: Sequence[float]) -> str:
    """Why the repeats of a case cannot be those of one kernel; empty where they can."""
    apart = max(seconds) / min(seconds)
    if apart <= MOST_APART:
        return ""
    return (
        f"the slowest repeat takes {apart:.4g} times as long as the fastest, and repeats of one kernel at most "
        f"{MOST_APART:g} times"
    )


class CaseForm(BaselineForm):
    """The measurements of one case."""

    seconds: Annotated[tuple[Positive, ...], Field(min_length=FEWEST_REPEATS)]
    """Median of each repeat, in seconds per call, in the order of measurement."""
    clock_mhz: Positive | None = None
    """Lowest SM clock that was read, in MHz."""
    median_mhz: Positive | None = None
    """Lowest median of the SM clock in a repeat, in MHz; not in files until November 2026."""
    autotuner: tuple[ChosenForm, ...] = ()
    """Empty for cases without an autotuner, and in older files."""

    @field_validator("seconds")
    @classmethod
    def check_repeats(cls, seconds: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse repeats that differ by more than repeats of one kernel do: noise as large hides any change."""
        if why := why_too_far_apart(seconds):
            raise PydanticCustomError("apart", "{why}", {"why": why})
        return seconds


class BaselineFile(BaselineForm):
    """The content of `expected/latency/<device>.json`."""

    schema_version: Literal[1] = 1
    device: DeviceForm
    recorded: str
    """Date and time of the recording, UTC."""
    command: str
    """The command that recorded the file."""
    packages: dict[str, str | None]
    """Package -> version; None: not installed."""
    limits: LimitsForm
    cases: dict[str, CaseForm]
    without: dict[str, Annotated[str, Field(pattern=r"\S")]] = {}
    """Case that is compared no more -> why; written by hand, and kept until a recording measures the case."""

    def baseline(self, case: str, path: Path) -> LatencyBaseline | None:
        """The baseline of one case; None if the file does not have the case.

        Args:
            case: id of a latency case.
            path: where the file was read from, for messages.
        """
        recorded = self.cases.get(case)
        if recorded is None:
            return None
        source = f"{path}, recorded {self.recorded[:10]} with {self.versions}"
        chosen = tuple(
            Chosen(
                repeats=group.repeats, choices=tuple(AutotunerChoice(**choice.model_dump()) for choice in group.choices)
            )
            for group in recorded.autotuner
        )
        return LatencyBaseline(
            seconds=recorded.seconds, clock_mhz=recorded.clock_mhz, median_mhz=recorded.median_mhz, chosen=chosen,
            source=source,
        )  # fmt: skip

    def credible_baseline(self, measured: Latency, path: Path) -> LatencyBaseline | None:
        """The baseline of a case that was measured; None if the file does not have the case.

        Raises:
            BaselineError: what the file says of it cannot have been measured.
        """
        baseline = self.baseline(measured.id, path)
        limits = DeviceLimits(bytes_per_s=self.limits.bytes_per_s, flop_per_s=self.limits.flop_per_s)
        why = why_not_credible(measured, baseline, limits) if baseline else ""
        if why:
            raise BaselineError(f"{path}: cases.{measured.id}.seconds: {why}; {AGAIN}")
        return baseline

    @property
    def versions(self) -> str:
        """The driver and the packages that the file was recorded with, as text."""
        driver = [f"driver {self.device.driver}"] if self.device.driver else []
        packages = (f"{name} {version}" for name, version in self.packages.items() if version)
        return ", ".join([*driver, *packages])


def file_name(device: str) -> str:
    """The name of a device's file: `nvidia-h200.json` for `NVIDIA H200`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def read(path: Path) -> BaselineFile:
    """Read and check one file.

    Raises:
        BaselineError: the file cannot be read, or a key is missing, unknown or wrong.
    """
    try:
        return BaselineFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        remedy = f"; {AGAIN}" if any(problem["type"] == "apart" for problem in error.errors()) else ""
        raise BaselineError(f"{path}: not a file of latency baselines: {_name_problems(error)}{remedy}") from error


def _name_problems(error: ValidationError) -> str:
    """Every key that is wrong, and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}" for problem in error.errors()
    )


def read_for_device(path: Path, kind: str, device: str) -> BaselineFile | None:
    """Read the baselines of one device; None if there is no file.

    Raises:
        BaselineError: the file cannot be used, or it belongs to another device.
    """
    if not path.is_file():
        return None
    baselines = read(path)
    if (baselines.device.kind, baselines.device.name) != (kind, device):
        raise BaselineError(
            f"{path}: device: is {baselines.device.name} ({baselines.device.kind}), but this is {device} ({kind}); "
            "latencies of one device are never compared with another's: move the file away"
        )
    return baselines


def check_folder(folder: Path) -> list[str]:
    """Check the baseline files of GPUs in a folder; one line for each file that is wrong."""
    problems = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            baselines = read(path)
        except BaselineError as error:
            problems.append(str(error))
            continue
        if baselines.device.kind != "cuda":
            problems.append(
                f"{path}: device.kind: is {baselines.device.kind}; only GPUs have baselines here: remove the file"
            )
        elif path.name != file_name(baselines.device.name):
            problems.append(
                f"{path}: device.name: is {baselines.device.name}; "
                f"rename the file to {file_name(baselines.device.name)}"
            )
    return problems


def find_loud_cases(latencies: Iterable[Latency]) -> dict[str, str]:
    """The cases whose repeats cannot be a baseline, and why: they are far apart, or one of them timed the host."""
    repeats: dict[str, list[Timing]] = {}
    for latency in latencies:
        if latency.timing is not None:
            repeats.setdefault(latency.id, []).append(latency.timing)
    why = {
        case: next(filter(None, map(why_the_host_was_timed, timings)), "")
        or why_too_far_apart([timing.median for timing in timings])
        for case, timings in sorted(repeats.items())
    }
    return {case: f"{because}; {QUIET}" for case, because in why.items() if because}


def collect_repeats(latencies: Iterable[Latency]) -> dict[str, CaseForm]:
    """Group the latencies of one session by case; a case that was not measured is left out."""
    repeats: dict[str, list[Latency]] = {}
    for latency in latencies:
        if latency.timing is not None:
            repeats.setdefault(latency.id, []).append(latency)
    return {
        case: CaseForm.model_construct(
            seconds=tuple(latency.timing.median for latency in measured if latency.timing is not None),
            clock_mhz=min((latency.clock.lowest_mhz for latency in measured if latency.clock), default=None),
            median_mhz=min(
                (each.clock.median_mhz for each in measured if each.clock and each.clock.median_mhz), default=None
            ),
            autotuner=group_choices(measured),
        )
        for case, measured in sorted(repeats.items())
    }


def group_choices(repeats: Iterable[Latency]) -> tuple[ChosenForm, ...]:
    """Group the autotuners' choices of a case's repeats; equal choices appear once, with the repeats that made them."""
    groups: list[tuple[list[int], tuple[AutotunerChoice, ...]]] = []
    for number, latency in enumerate(repeats, 1):
        for numbers, choices in groups if latency.choices else ():
            if choices == latency.choices:
                numbers.append(number)
                break
        else:
            if latency.choices:
                groups.append(([number], latency.choices))
    return tuple(
        ChosenForm(repeats=tuple(numbers), choices=tuple(ChoiceForm(**asdict(choice)) for choice in choices))
        for numbers, choices in groups
    )


def write(path: Path, content: BaselineFile) -> None:
    """Write a file atomically.

    Raises:
        BaselineError: the existing file has cases that the new content lacks, the content would be refused when it is
            read, or the file cannot be written; the existing file is not changed.
    """
    if path.is_file():
        before = read(path)
        kept = {case: why for case, why in before.without.items() if case not in content.cases}
        content = content.model_copy(update={"without": kept})
        lost = sorted(before.cases.keys() - content.cases.keys() - kept.keys())
        if lost:
            raise BaselineError(
                f"{path}: has {len(lost)} cases that this session did not measure ({', '.join(lost[:3])}, ...); "
                "a baseline is recorded as a whole: run all its cases, or remove the file first"
            )
    text = content.model_dump_json(indent=1) + "\n"
    try:
        BaselineFile.model_validate_json(text)
        with replace_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except ValidationError as error:
        raise BaselineError(f"{_name_problems(error)}: {QUIET}") from error
    except OSError as error:
        raise BaselineError(f"{path}: cannot be written: {error.strerror}; what was there is as it was") from error


def check_writable(folder: Path) -> None:
    """Raise BaselineError if no file can be written in the folder, or in its nearest existing parent."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise BaselineError(f"{existing}: nothing can be written there: {error.strerror}") from error
