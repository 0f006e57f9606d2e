"""Whether an evaluation is of the job that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from scanproof.numbers.values import EvalJob
from scanproof.record import Evaluation

FREE = ("device", "batch_size", "model_args")
"""Fields of a job in which an evaluation may differ: where it ran.  Arguments that the job names have to be there, and
a stand-in has to run on the kind of device that its job names.

No other, not even one that no question depends on: gates and triage are chosen by suite, size and kernels.
"""


def list_differences(evaluation: Evaluation, asked: EvalJob) -> Iterator[str]:
    """In what an evaluation is not of the job that was asked for, in words."""
    yield from _other_job(evaluation.job, asked)
    yield from _other_device(evaluation, asked)
    yield from _weights_elsewhere(evaluation)


def _other_job(measured: EvalJob, asked: EvalJob) -> Iterator[str]:
    for field in fields(EvalJob):
        one, other = getattr(measured, field.name), getattr(asked, field.name)
        if field.name not in FREE and one != other:
            yield f"job.{field.name}: {one!r}, asked for was {other!r}"
    for name, value in asked.model_args:
        if (name, value) not in measured.model_args:
            yield f"job.model_args: {name}={value} is not among them"


def _other_device(evaluation: Evaluation, asked: EvalJob) -> Iterator[str]:
    """A stand-in on another kind of device: what rounding may move there is not known, so that no sharp bound holds."""
    if asked.suite != "embedded":
        return
    said = str(evaluation.environment.get("device") or asked.device)
    places = {"job.device": evaluation.job.device, "environment: device": said}
    for place, device in places.items():
        if _kind(device) != _kind(asked.device):
            yield f"{place}: {device!r}, but the answers of a stand-in are judged on {asked.device!r}"


def _weights_elsewhere(evaluation: Evaluation) -> Iterator[str]:
    """Weights that are not on the job's kind of device: what computes with them are not the kernels that ran beside."""
    places = evaluation.environment.get("weights_device")
    for kind, count in places.items() if isinstance(places, Mapping) else ():
        if kind != _kind(evaluation.job.device):
            job = evaluation.job.device
            yield f"environment: weights_device: {count} weights are on {kind!r}, the job is on {job!r}"


def _kind(device: str) -> str:
    """`cuda` of `cuda:1`."""
    return device.partition(":")[0]
