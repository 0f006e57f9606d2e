"""The shared engine: scores lm-eval's requests by running each distinct token once; see `scanproof.scoring.engine`."""

from __future__ import annotations

from functools import partial
from typing import Any

from scanproof.numbers.verdict.engines import NO_SPOT, SpotCheck
from scanproof.scoring import mixer_forms, spot_checks
from scanproof.scoring.batch_limits import choose_limits, rows_of
from scanproof.scoring.encoding import encode_words_once
from scanproof.scoring.engine import Engine, Say, Tally, is_out_of_memory
from scanproof.scoring.network import Unsupported, choose_operators, find_mixers, open_network
from scanproof.scoring.prefix_tree import Query, Tree
from scanproof.scoring.schedule import Limits

__all__ = ["Engine", "Limits", "Tally", "Unsupported", "install", "spot_check"]

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""(cache key, context token ids, continuation token ids), as lm-eval's `_loglikelihood_tokens` takes them."""


def install(model: Any, say: Say, always: bool = False) -> Tally:
    """From now on, let an lm-eval model of the `hf` family score each distinct token once.

    Args:
        model: its `_loglikelihood_tokens` is replaced; tasks, prompts and tokenizer stay lm-eval's.
        say: is told, in a sentence, what a reader of the run should know.
        always: also where lm-eval's own path is estimated to be as quick, which the first call of lm-eval's decides.

    Returns:
        Counts of what was scored; they grow with each call.

    Raises:
        Unsupported: the model cannot start from a state, runs in several processes, or its class scores in its own way.
    """
    from lm_eval.models.huggingface import HFLM

    if getattr(model, "backend", None) != "causal":
        raise Unsupported(f"it is no causal model but {getattr(model, 'backend', type(model).__name__)}")
    if model.world_size > 1:
        raise Unsupported(f"it is spread over {model.world_size} processes")
    for name in ("_loglikelihood_tokens", "_model_call", "_select_cont_toks"):
        if getattr(type(model), name, None) is not getattr(HFLM, name):
            raise Unsupported(f"{type(model).__name__} has a {name} of its own")
    for _, kind in find_mixers(model.model):
        try:
            choose_operators(next(model.model.parameters()).device, kind)
        except ImportError as error:
            raise Unsupported(f"its states are handed over by kernels that are not installed: {error}") from error
    tally = Tally()

    def score(
        requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        answers = None if tally.declined else _score(model, requests, disable_tqdm, tally, say, always)
        if answers is None:
            return list(HFLM._loglikelihood_tokens(model, requests, disable_tqdm=disable_tqdm, override_bs=override_bs))
        for index in spot_checks.pick_evenly(len(requests), spot_checks.REQUESTS - len(tally.sampled)):
            _, context, continuation = requests[index]
            tally.sampled.append(spot_checks.SampledAnswer(context, continuation, answers[index][0]))
        return answers

    model._loglikelihood_tokens = score
    model.loglikelihood = partial(_loglikelihood, model)
    return tally


def spot_check(model: Any, tally: Tally) -> SpotCheck | None:
    """Score the sampled requests by lm-eval's own path as well, and compare.

    Returns:
        See `spot_checks.find_largest_difference`; None where memory does not suffice, and a note in `tally` says so.
    """
    from lm_eval.models.huggingface import HFLM

    def plain(requests: list[spot_checks.Request]) -> list[tuple[float, bool]]:
        # With batch size `auto`, lm-eval would search for one; 1 prevents that.
        return list(HFLM._loglikelihood_tokens(model, requests, disable_tqdm=True, override_bs=1))

    weight = next(model.model.parameters())
    has_ssd = any(kind.form not in (None, *mixer_forms.SELECTIVE) for _, kind in find_mixers(model.model))
    dtype = spot_checks.precision_of(model.mixed_precision_dtype or weight.dtype, weight.device, has_ssd=has_ssd)
    try:
        return spot_checks.find_largest_difference(plain, tally.sampled, dtype)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    tally.notes.append(NO_SPOT)
    return None


def _loglikelihood(model: Any, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
    """lm-eval's `loglikelihood`, but it encodes no text twice."""
    model.tok_encode = encode_words_once(model.tok_encode, model.tokenizer)
    try:
        return list(type(model).loglikelihood(model, requests, disable_tqdm=disable_tqdm))
    finally:
        del model.tok_encode


def _score(
    model: Any, requests: list[Request], quiet: bool, tally: Tally, say: Say, always: bool
) -> list[tuple[float, bool]] | None:
    """The answers; None where lm-eval's own path is preferred, and then `tally` says why."""
    queries = [_make_query(context, continuation, model.max_length) for _, context, continuation in requests]
    with open_network(model) as network:
        engine = Engine(network, choose_limits(model, queries), model.softmax_dtype, tally, say)
        tree = engine.plan(queries)
        # Decided once, so that one engine scores all requests of a job.
        if not always and not tally.tokens:
            tally.declined = engine.why_plain(tree, queries, rows_of(model))
        if tally.declined:
            say(f"scored plain: {tally.declined}")
            return None
        return _answer(model, requests, engine, tree, queries, quiet)


def _answer(
    model: Any, requests: list[Request], engine: Engine, tree: Tree, queries: list[Query], quiet: bool
) -> list[tuple[float, bool]]:
    """Let the engine score the requests, and tell lm-eval of each answer."""
    from tqdm import tqdm

    answers: dict[int, tuple[float, bool]] = {}
    with tqdm(total=len(requests), disable=quiet, desc="Running loglikelihood requests") as bar:

        def answered(index: int, value: float, greedy: bool) -> None:
            answers[index] = (value, greedy)
            if requests[index][0] is not None:
                model.cache_hook.add_partial("loglikelihood", requests[index][0], answers[index])
            bar.update(1)

        engine.score(tree, queries, answered)
    if missing := len(requests) - len(answers):
        raise RuntimeError(f"{missing} of {len(requests)} requests were not answered")
    return [answers[index] for index in range(len(requests))]


def _make_query(context: list[int], continuation: list[int], max_length: int) -> Query:
    """The query of a request; cut from the left where it is longer than the model reads, as in lm-eval."""
    if not context or not continuation or len(continuation) > max_length:
        raise ValueError(
            f"a request of {len(context)} tokens of context and {len(continuation)} of continuation cannot be scored; "
            f"both need one token, and the continuation has room for {max_length}"
        )
    return Query(tuple((context + continuation)[-(max_length + 1) :][:-1]), tuple(continuation))
