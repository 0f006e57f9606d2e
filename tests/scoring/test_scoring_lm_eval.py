"""lm-eval's request types, cache and batch sizes: the results are the same with the engine and without it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

NAMES = ("mamba1", "mamba2attn", "pythia")
CONTEXT = "Question: What color is a parsam?\nAnswer:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lm-eval")


pytestmark = pytest.mark.usefixtures("offline")


class Hook:
    """Records each answer, in place of lm-eval's cache."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any, Any]] = []

    def add_partial(self, method: str, key: Any, answer: Any) -> None:
        self.told.append((method, key, answer))


def asked(lm: Any, kind: str, arguments: Sequence[tuple[str, ...]]) -> tuple[list[Any], Counter[tuple[str, Any]]]:
    """The answers of a request type, and how often the cache got each key of each method."""
    from lm_eval.api.instance import Instance

    lm.cache_hook = hook = Hook()
    requests = [Instance(request_type=kind, doc={}, arguments=each, idx=index) for index, each in enumerate(arguments)]
    answers = getattr(lm, kind)(requests, disable_tqdm=True)
    for method, key, answer in hook.told:
        assert method == kind
        assert answer in [given for each, given in zip(arguments, answers, strict=True) if each == key]
    return answers, Counter((method, key) for method, key, _ in hook.told)


def same(lm: Any, arguments: Sequence[tuple[str, ...]], kind: str = "loglikelihood") -> Any:
    """Ask without the engine and with it; returns the tally."""
    wanted, told = asked(lm, kind, arguments)
    with small.installed(lm) as tally:
        got, told_again = asked(lm, kind, arguments)
    assert told == told_again == Counter((kind, each) for each in arguments)
    if kind == "loglikelihood":
        assert small.apart(wanted, got) < small.CLOSE
        assert all(type(value) is float and type(greedy) is bool for value, greedy in got)
    else:
        assert got == pytest.approx(wanted, abs=small.CLOSE)
    return tally


CHOICES = [" pale gray", " pale", " red", " green", " blue and green", " gray"]


@pytest.mark.parametrize("name", NAMES)
def test_multiple_choice_runs_a_question_once(folder: Path, name: str) -> None:
    """Requests like truthfulqa's mc2: many choices, of which some are the beginning of others."""
    lm = small.model(folder, name)
    pairs = [(question + CONTEXT, choice) for question in ("", "The ", "One day ") for choice in CHOICES]
    tally = same(lm, pairs)
    assert tally.tokens < tally.plain_tokens / 2


@pytest.mark.parametrize("name", NAMES)
def test_continuations_of_one_token_share_their_logits(folder: Path, name: str) -> None:
    lm = small.model(folder, name)
    letters = [choice for choice in (" A", " B", " C", " D") if len(lm._encode_pair(CONTEXT, choice)[1]) == 1]
    assert len(letters) > 1
    tally = same(lm, [(CONTEXT, letter) for letter in letters])
    assert tally.scored_positions == 1
    assert tally.tokens == tally.plain_tokens == len(lm.tok_encode(CONTEXT))


@pytest.mark.parametrize("name", NAMES)
def test_the_last_word_of_a_text_and_whether_it_is_the_most_likely(folder: Path, name: str) -> None:
    """Requests like lambada's; the greedy flag is True only for the model's own continuation."""
    lm = small.model(folder, name)
    tokens = lm.tok_encode(CONTEXT)
    with torch.no_grad():
        for _ in range(4):
            tokens = [*tokens, int(lm._model_call(torch.tensor([tokens]))[0, -1].argmax())]
    start = len(tokens) - 4
    pairs = [(tokens[:at], tokens[at:end]) for at in (start, start + 2) for end in (start + 3, start + 4)]
    pairs += [
        (tokens[:start], [*tokens[start:-1], (tokens[-1] + 1) % 300]),
        (tokens[:start], [7, *tokens[start + 1 :]]),
    ]
    answers, _ = small.shared(lm, pairs)
    assert small.apart(small.one_by_one(lm, pairs), answers) < small.CLOSE
    assert [greedy for _, greedy in answers] == [True] * 4 + [False] * 2
    same(lm, [("The color of a parsam is pale", " gray"), ("One day", " it"), ("One", " day")])


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_are_answered_each(folder: Path, name: str) -> None:
    tally = same(small.model(folder, name), [(CONTEXT, " red"), (CONTEXT, " blue"), (CONTEXT, " red")] * 2)
    assert tally.plain_tokens < 3 * tally.distinct_tokens


@pytest.mark.parametrize("options", [{}, {"add_bos_token": True}, {"prefix_token_id": 5}])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_context_begins_with_the_prefix_token(folder: Path, name: str, options: dict[str, Any]) -> None:
    same(small.model(folder, name, **options), [("", " red"), ("", "A parsam"), ("The", " red")])


@pytest.mark.parametrize("name", NAMES)
def test_spaces_at_the_end_of_a_context_go_to_the_continuation(folder: Path, name: str) -> None:
    lm = small.model(folder, name)
    pairs = [(CONTEXT + " ", "red"), (CONTEXT, " red"), (CONTEXT + "  ", "red"), (CONTEXT + "\n", "red")]
    same(lm, pairs)
    with small.installed(lm):
        first, second = asked(lm, "loglikelihood", pairs[:2])[0]
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_what_is_too_long_loses_its_left_end(folder: Path, name: str) -> None:
    lm = small.model(folder, name, max_length=12)
    assert lm.max_length == 12
    texts = [CONTEXT * 3, CONTEXT * 3 + " The", "The " * 30 + CONTEXT, CONTEXT[:9]]
    same(lm, [(text, choice) for text in texts for choice in CHOICES])
    # As long as the model can read, and every position is scored.
    pairs = [
        (list(range(2, 2 + length)), list(range(40, 40 + rest))) for length in (1, 11, 12, 13) for rest in (1, 2, 12)
    ]
    answers, _ = small.shared(lm, pairs)
    assert small.apart(small.one_by_one(lm, pairs), answers) < small.CLOSE


@pytest.mark.parametrize(("context", "rest"), [([], [1]), ([1], []), ([1], list(range(13)))])
def test_what_cannot_be_scored_is_said(folder: Path, context: list[int], rest: list[int]) -> None:
    lm = small.model(folder, "mamba1", max_length=12)
    with pytest.raises(AssertionError):
        small.plain(lm, [(context, rest)])
    with pytest.raises(ValueError, match=f"{len(context)} tokens of context and {len(rest)} of continuation"):
        small.shared(lm, [(context, rest)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_rolling_log_likelihoods_go_on_over_windows(folder: Path, name: str, batch: int) -> None:
    lm = small.model(folder, name, max_length=16, batch_size=batch)
    texts = [(CONTEXT * 4,), ("The",), ("One day " * 20,), (CONTEXT * 4 + " red",)]
    assert len(lm.tok_encode(texts[0][0])) > 2 * 16
    tally = same(lm, texts, "loglikelihood_rolling")
    assert tally.scored_positions > 100


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling"])
def test_a_batch_size_that_lm_eval_finds(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(folder, "mamba1", batch_size="auto", max_length=16)
    # lm-eval would try 64 rows and fewer with random tokens.
    monkeypatch.setattr(lm, "_detect_batch_size", lambda *_, **__: 5)
    pairs: list[tuple[str, ...]] = [(CONTEXT, choice) for choice in CHOICES]
    same(lm, pairs if kind == "loglikelihood" else [(CONTEXT * 4,)], kind)


@pytest.mark.parametrize("name", NAMES)
def test_the_softmax_in_a_dtype_that_is_asked_for(folder: Path, name: str) -> None:
    answers = {}
    for kind in (None, "float32", "float64"):
        lm = small.model(folder, name, dtype="bfloat16", **({} if kind is None else {"softmax_dtype": kind}))
        pairs = [([1, 2, 3], [4, 5]), ([1, 2, 3], [4]), ([6], [7])]
        answers[kind] = small.shared(lm, pairs)[0]
        wanted = [value for value, _ in small.plain(lm, pairs)]
        assert [value for value, _ in answers[kind]] == pytest.approx(wanted, rel=0.02)
    rounded = [float(torch.tensor(value).bfloat16()) for value, _ in answers[None]]
    assert [value for value, _ in answers[None]] == rounded
    for kind in ("float32", "float64"):
        assert [value for value, _ in answers[kind]] != rounded


def test_progress_counts_requests_and_can_be_silent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = small.model(folder, "mamba1")
    capsys.readouterr()
    requests = small.numbered([([1, 2], [3]), ([1, 2], [4]), ([5], [6])])
    with small.installed(lm):
        lm._loglikelihood_tokens(requests, disable_tqdm=True)
        assert not capsys.readouterr().err
        lm._loglikelihood_tokens(requests)
    assert "Running loglikelihood requests: 100%" in capsys.readouterr().err


def test_no_requests_are_no_answers(folder: Path) -> None:
    lm = small.model(folder, "mamba1")
    with small.installed(lm) as tally:
        assert lm._loglikelihood_tokens([], disable_tqdm=True) == []
    assert tally.tokens == 0


def test_one_input_that_is_cut_in_two_ways_is_scored_as_one_by_one(folder: Path) -> None:
    """lm-eval's logits cache answers such pairs from the longer continuation's logits, and reads its first positions.

    Its own rule, and this engine's, is the last ones: what is asked of a request does not depend on its neighbours.
    """
    lm = small.model(folder, "mamba1")
    pairs = [([1, 2, 3], [4, 5, 6]), ([1, 2, 3, 4], [5, 7])]
    answers, tally = small.shared(lm, pairs)
    assert small.apart(small.one_by_one(lm, pairs), answers) < small.CLOSE
    assert tally.tokens == tally.plain_tokens == 5
    without = small.model(folder, "mamba1", logits_cache=False)
    assert small.apart(small.plain(without, pairs), answers) < small.CLOSE
    assert all(math.isfinite(value) for value, _ in answers)
