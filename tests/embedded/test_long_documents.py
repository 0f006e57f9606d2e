"""The stand-ins' long documents and last words of several tokens: which faults they show."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scanproof.embedded import MIRROR
from scanproof.embedded.data import make_mmlu_rows, make_rows
from scanproof.embedded.long_documents import SENTENCES
from scanproof.embedded.record import MAX_LENGTH, StandIn, list_stand_ins
from scanproof.embedded.sources import Row
from scanproof.embedded.suite import DATASETS, SUBJECTS
from scanproof.embedded.tokenizer import load_codec
from scanproof.embedded.world import build_world
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.rounding import TABLE, MeasuredRounding
from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.scoring import network
else:
    network = Late("scanproof.scoring.network")

EXPECTED = Path(__file__).parents[2] / "expected" / "embedded"
STAND_INS = {stand_in.name: stand_in for stand_in in list_stand_ins()}
SCANNED = tuple(name for name in STAND_INS if not name.startswith("pythia"))
CEILINGS = {row.name: row.ceiling for row in MeasuredRounding.read(TABLE)}
CHOICES: dict[str, Callable[[Row], list[str]]] = {
    "lambada_openai": lambda row: [f" {row['text'].rpartition(' ')[2]}"],
    "boolq": lambda row: [" no", " yes"],
    "pubmedqa": lambda row: [" yes", " no", " maybe"],
    "race": lambda row: [f" {option}" for option in ast.literal_eval(row["problems"])[-1]["options"]],
}
"""Task with long documents -> the answers to a row, in lm-eval's order."""
ENGINES: dict[str, Callable[[Any, list[tuple[list[int], list[int]]]], Sequence[small.Answer]]] = {
    "shared": lambda lm, pairs: small.shared(lm, pairs)[0],
    "plain": small.plain,
}
Pair = tuple[list[int], list[int]]
Change = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@cache
def read_recorded(name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(task, document) -> its recorded line; the first line is about no document."""
    with gzip.open(EXPECTED / f"{name}{ANSWERS}", "rt") as lines:
        return {(row["task"], row["doc_id"]): row for row in map(json.loads, lines) if row["task"]}


def load(stand_in: StandIn) -> Any:
    """A stand-in as lm-eval loads it."""
    options: dict[str, Any] = dict(stand_in.model_args)
    return small.loaded(stand_in.model, MIRROR / stand_in.hub_id, max_length=MAX_LENGTH, **options)


@dataclass(frozen=True)
class Requests:
    """What a stand-in is asked about the long documents, and what it answered in float64."""

    tasks: list[str]
    pairs: list[Pair]
    """Tokens of each prompt and answer."""
    recorded: list[float]
    """Nats."""


def list_requests(lm: Any, name: str) -> Requests:
    """The requests of the long documents of all tasks that have some."""
    requests = Requests([], [], [])
    for dataset in DATASETS:
        if dataset.task not in SENTENCES:
            continue
        rows = list(enumerate(make_rows(dataset, build_world())[dataset.splits[0][0]]))
        for number, row in rows[-len(SENTENCES[dataset.task]) :]:
            choices = CHOICES[dataset.task](row)
            requests.tasks.extend([dataset.task] * len(choices))
            requests.pairs.extend(lm._encode_pair(dataset.prompt(row), choice) for choice in choices)
            requests.recorded.extend(read_recorded(name)[dataset.task, number]["loglikelihoods"])
    return requests


def find_failed(name: str, requests: Requests, answers: Sequence[small.Answer]) -> list[str]:
    """The stand-in's numbers that are CHANGED by these answers: one that moved beyond rounding is enough."""
    scored = zip(requests.tasks, answers, requests.recorded, strict=True)
    moved = {task for task, (now, _), before in scored if not abs(now - before) <= CEILINGS[name]}
    values = yaml.safe_load((EXPECTED / f"{name}.yaml").read_text())["values"]
    return [f"{value['task']} {value['metric']}" for value in values if value["task"] in moved]


@contextmanager
def planted(lm: Any, change: Change) -> Iterator[None]:
    """Change what each scan gives, (b, l, channels) after its output projection; both engines call these modules."""

    def spoil(_: Any, __: Any, given: Any) -> Any:
        return (change(given[0].clone()), *given[1:]) if isinstance(given, tuple) else change(given.clone())

    scans = [mixer for mixer, kind in network.find_mixers(lm.model) if kind.form is not None]
    assert scans
    handles = [mixer.register_forward_hook(spoil) for mixer in scans]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wrong_at(first: int, step: int, factor: float) -> Change:
    """Multiply what a scan gives at the positions first, first + step, ..."""

    def change(out: Any) -> Any:
        out[:, first::step] *= factor
        return out

    return change


WRONG = {
    "after each 64 tokens": wrong_at(64, 64, 1.02),
    "at each 64th token": wrong_at(63, 64, 1.02),
    "past 64 tokens": wrong_at(64, 1, 1.001),
    "past 256 tokens": wrong_at(256, 1, 1.01),
    "past 2,048 tokens": wrong_at(2048, 1, 1.01),
}
"""Where a scan is wrong, and nowhere else; by 2% at single positions, by less at all that follow."""


@pytest.mark.parametrize(
    ("name", "engine"),
    [*((name, "shared") for name in SCANNED), ("mamba1-tiny", "plain"), ("megatron-hybrid-tiny", "plain")],
)
def test_a_scan_that_is_wrong_only_far_into_a_pass_fails_three_numbers(name: str, engine: str) -> None:
    lm = load(STAND_INS[name])
    requests = list_requests(lm, name)
    assert not find_failed(name, requests, ENGINES[engine](lm, requests.pairs))
    for where, change in WRONG.items():
        with planted(lm, change):
            answers = ENGINES[engine](lm, requests.pairs)
        assert len(find_failed(name, requests, answers)) >= 3, where


@pytest.mark.parametrize("name", STAND_INS)
def test_text_that_is_cut_at_the_wrong_end_fails_three_numbers(name: str) -> None:
    lm = load(STAND_INS[name])
    requests = list_requests(lm, name)
    cut = [(context[: MAX_LENGTH + 1 - len(rest)], rest) for context, rest in requests.pairs]
    assert len(find_failed(name, requests, small.shared(lm, cut)[0])) >= 3


@pytest.mark.parametrize("name", STAND_INS)
def test_a_shorter_max_length_fails_three_numbers(name: str) -> None:
    """A scan has to remember what is cut: mamba2-tiny's forget it within some dozens of tokens."""
    lm = load(STAND_INS[name])
    requests = list_requests(lm, name)
    lm._max_length = 64 if name == "mamba2-tiny" else 1024
    assert len(find_failed(name, requests, small.shared(lm, requests.pairs)[0])) >= 3


@pytest.mark.parametrize("name", STAND_INS)
def test_documents_are_longer_than_64_256_and_2200_tokens_in_three_tasks(name: str) -> None:
    codec = load_codec(MIRROR / STAND_INS[name].hub_id)
    longest = {}
    for dataset in DATASETS:
        rows = make_rows(dataset, build_world())[dataset.splits[0][0]]
        longest[dataset.task] = sorted(map(len, codec.encode([dataset.prompt(row) for row in rows])))
    assert sum(lengths[-10] > 64 for task, lengths in longest.items() if task in SENTENCES) == 4
    assert sum(lengths[-2] > 256 for lengths in longest.values()) >= 4
    assert sum(lengths[-1] > MAX_LENGTH > 2048 for lengths in longest.values()) == 3


@pytest.mark.parametrize("name", STAND_INS)
def test_a_greedy_flag_of_the_last_token_alone_would_move_the_accuracy(name: str) -> None:
    """lambada_openai's accuracy counts a word as right where each of its tokens is the most probable one."""
    stand_in = STAND_INS[name]
    lm = load(stand_in)
    dataset = next(dataset for dataset in DATASETS if dataset.task == "lambada_openai")
    wrong = 0
    for number, row in enumerate(make_rows(dataset, build_world())["test"]):
        context, rest = lm._encode_pair(dataset.prompt(row), dataset.answer(row))
        if len(rest) == 1 or read_recorded(name)["lambada_openai", number]["is_greedy"][0]:
            continue
        # Only the last token is scored: the ones before it belong to the context.
        ((_, greedy),), _ = small.shared(lm, [(context + rest[:-1], rest[-1:])])
        wrong += greedy
    assert wrong >= 3


def test_mmlu_has_a_usual_letter_that_the_examples_show() -> None:
    world, alike = build_world(), 0
    for number in range(len(SUBJECTS)):
        rows = make_mmlu_rows(number, world)
        letters = [row["answer"] for row in rows["dev"]]
        usual = max(set(letters), key=letters.count)
        alike += sum(row["answer"] == usual for row in rows["test"])
    assert alike > 0.75 * 10 * len(SUBJECTS)
