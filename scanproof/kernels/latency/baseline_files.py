"""Latency baselines on disk: one file per device, written whole from one session, read with every key checked."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scanproof.files import replace_atomically
from scanproof.kernels.latency.latency_verdict import FEWEST_REPEATS, Chosen, Latency, LatencyBaseline
from scanproof.kernels.launches.launched import AutotunerChoice

FOLDER = "latency"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BaselineError(Exception):
    """A file of baselines cannot be used; the message names the file, the key and what is wrong."""


class Form(BaseModel):
    """Nothing is read that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DeviceForm(Form):
    """What the latencies were measured on."""

    kind: Literal["cuda", "cpu"]
    name: Annotated[str, Field(min_length=1)]
    driver: str | None = None


class LimitsForm(Form):
    """What the device could do in that session."""

    bytes_per_s: Positive
    flop_per_s: dict[str, Positive]


class ChoiceForm(Form):
    """What an autotuner chose for a kernel."""

    kernel: str
    key: tuple[str, ...]
    config: dict[str, str | int | float | bool | None]


class ChosenForm(Form):
    """What the autotuners chose for a case, and in which repeats, from 1."""

    repeats: Annotated[tuple[int, ...], Field(min_length=1)]
    choices: tuple[ChoiceForm, ...]


class CaseForm(Form):
    """One case."""

    seconds: Annotated[tuple[Positive, ...], Field(min_length=FEWEST_REPEATS)]
    """Median of each repeat, seconds per call, in the order in which they were measured."""
    clock_mhz: Positive | None = None
    """Lowest SM clock seen."""
    autotuner: tuple[ChosenForm, ...] = ()
    """Absent where nothing is tuned, and in older files."""


class BaselineFile(Form):
    """`expected/latency/<device>.json`."""

    schema_version: Literal[1] = 1
    device: DeviceForm
    recorded: str
    """Date, UTC."""
    command: str
    packages: dict[str, str | None]
    limits: LimitsForm
    cases: dict[str, CaseForm]

    def baseline(self, case: str, path: Path) -> LatencyBaseline | None:
        """The baseline of one case; None when the file has none."""
        found = self.cases.get(case)
        if found is None:
            return None
        source = f"{path}, recorded {self.recorded[:10]} with {self.versions}"
        chosen = tuple(
            Chosen(repeats=each.repeats, choices=tuple(AutotunerChoice(**one.model_dump()) for one in each.choices))
            for each in found.autotuner
        )
        return LatencyBaseline(seconds=found.seconds, clock_mhz=found.clock_mhz, chosen=chosen, source=source)

    @property
    def versions(self) -> str:
        """What it was recorded with, in words."""
        driver = [f"driver {self.device.driver}"] if self.device.driver else []
        packages = (f"{name} {version}" for name, version in self.packages.items() if version)
        return ", ".join([*driver, *packages])


def file_name(device: str) -> str:
    """`NVIDIA H200` -> `nvidia-h200.json`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def read(path: Path) -> BaselineFile:
    """Read one file; raises BaselineError."""
    try:
        return BaselineFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()]
        raise BaselineError(f"{path}: not a file of latency baselines: {'; '.join(wrong)}") from error


def read_for_device(path: Path, kind: str, device: str) -> BaselineFile | None:
    """The baselines of one device; None when there is no file.

    Raises:
        BaselineError: the file cannot be used, or is that of another device.
    """
    if not path.is_file():
        return None
    found = read(path)
    if (found.device.kind, found.device.name) != (kind, device):
        raise BaselineError(
            f"{path}: device: is {found.device.name} ({found.device.kind}), but this is {device} ({kind}); "
            "latencies of one device are never compared with another's: move the file away"
        )
    return found


def check_folder(folder: Path) -> list[str]:
    """What is wrong with the baselines of GPUs in a folder, one line per file."""
    wrong = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found = read(path)
        except BaselineError as error:
            wrong.append(str(error))
            continue
        if found.device.kind != "cuda":
            wrong.append(f"{path}: device.kind: is {found.device.kind}; only GPUs have baselines here: remove the file")
        elif path.name != file_name(found.device.name):
            wrong.append(
                f"{path}: device.name: is {found.device.name}; rename the file to {file_name(found.device.name)}"
            )
    return wrong


def collect_repeats(latencies: Iterable[Latency]) -> dict[str, CaseForm]:
    """Repeats of one session put together, by case; those that were not measured are left out."""
    repeats: dict[str, list[Latency]] = {}
    for each in latencies:
        if each.timing is not None:
            repeats.setdefault(each.id, []).append(each)
    return {
        case: CaseForm.model_construct(
            seconds=tuple(each.timing.median for each in found if each.timing is not None),
            clock_mhz=min((each.clock.lowest_mhz for each in found if each.clock), default=None),
            autotuner=group_choices(found),
        )
        for case, found in sorted(repeats.items())
    }


def group_choices(repeats: Iterable[Latency]) -> tuple[ChosenForm, ...]:
    """The choices of a case's repeats, those that are the same once."""
    found: list[tuple[list[int], tuple[AutotunerChoice, ...]]] = []
    for number, each in enumerate(repeats, 1):
        for numbers, choices in found if each.choices else ():
            if choices == each.choices:
                numbers.append(number)
                break
        else:
            if each.choices:
                found.append(([number], each.choices))
    return tuple(
        ChosenForm(repeats=tuple(numbers), choices=tuple(ChoiceForm(**asdict(one)) for one in choices))
        for numbers, choices in found
    )


def write(path: Path, content: BaselineFile) -> None:
    """Write a file in one step.

    Raises:
        BaselineError: the file has cases that the session lacks, or cannot be written; it is as it was then.
    """
    if path.is_file():
        lost = sorted(read(path).cases.keys() - content.cases.keys())
        if lost:
            raise BaselineError(
                f"{path}: has {len(lost)} cases that this session did not measure ({', '.join(lost[:3])}, ...); "
                "a baseline is recorded as a whole: run all its cases, or remove the file first"
            )
    try:
        with replace_atomically(path) as temporary:
            temporary.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BaselineError(f"{path}: cannot be written: {error.strerror}; what was there is as it was") from error


def check_writable(folder: Path) -> None:
    """Raise BaselineError where no file of baselines can be written; it leaves nothing behind."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise BaselineError(f"{there}: nothing can be written there: {error.strerror}") from error
