"""The second forms that replace the stand-ins' operations, and where they are put."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.embedded import MIRROR
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

    from scanproof.evaluation.worker.substitution import departure, replacements, score, sites
    from scanproof.kernels.references import papers
    from scanproof.models import loading
else:
    torch = Late("torch")
    F = Late("torch.nn.functional")
    papers = Late("scanproof.kernels.references.papers")
    loading = Late("scanproof.models.loading")
    departure = Late("scanproof.evaluation.worker.substitution.departure")
    replacements = Late("scanproof.evaluation.worker.substitution.replacements")
    sites = Late("scanproof.evaluation.worker.substitution.sites")
    score = Late("scanproof.evaluation.worker.substitution.score")

STANDINS = {
    "mamba1-tiny": {"selective_scan", "causal_conv1d", "rms_norm"},
    "mamba2-tiny": {"ssd", "causal_conv1d", "rms_norm", "gated_rms_norm"},
    "mamba2attn-tiny": {"ssd", "causal_conv1d", "rms_norm", "gated_rms_norm", "scaled_dot_product_attention"},
}


def drawn(*shape: int, dtype: str = "float64") -> Any:
    return torch.randn(*shape, dtype=getattr(torch, dtype))


def scan_arguments(dtype: str = "float64") -> tuple[Any, ...]:
    """b 2, d 3, l 37, n 4: more than two chunks of the reference."""
    sizes = [(2, 3, 37), (2, 3, 37), (3, 4), (2, 4, 37), (2, 4, 37), (3,), (2, 3, 37), (3,)]
    u, delta, A, B, C, D, z, bias = (drawn(*size, dtype=dtype) for size in sizes)
    return u, delta, -A.exp(), B, C, D, z, bias, True


def ssd_arguments() -> tuple[Any, ...]:
    x, dt, A = drawn(2, 37, 4, 3), drawn(2, 37, 4).exp(), -drawn(4).exp()
    return x, dt, A, drawn(2, 37, 2, 5), drawn(2, 37, 2, 5), 16, drawn(4)


def close(found: Any, wanted: Any) -> None:
    for each, other in zip(found, wanted, strict=True) if isinstance(wanted, tuple) else [(found, wanted)]:
        torch.testing.assert_close(each, other, rtol=1e-10, atol=1e-10)


def test_the_second_forms_are_the_same_maps() -> None:
    torch.manual_seed(0)
    scan = scan_arguments()
    state = drawn(2, 3, 4)
    close(replacements.selective_scan(*scan), papers.selective_scan(*scan))
    close(replacements.selective_scan(*scan, initial_state=state), papers.selective_scan(*scan, initial_state=state))
    arguments, state = ssd_arguments(), drawn(2, 4, 3, 5)
    close(replacements.ssd(*arguments), papers.ssd(*arguments))
    close(replacements.ssd(*arguments, initial_state=state), papers.ssd(*arguments, initial_state=state))
    x, weight, bias, before = drawn(2, 3, 9), drawn(3, 4), drawn(3), drawn(2, 3, 3)
    for given in ((x, weight), (x, weight, bias, "silu"), (x, weight, bias, None, before)):
        close(replacements.causal_conv1d(*given), papers.causal_conv1d(*given))
    x, z, weight = drawn(2, 5, 8), drawn(2, 5, 8), drawn(8)
    close(replacements.rms_norm(x, weight, 1e-5, 4), papers.rms_norm(x, weight, 1e-5, 4))
    for first in (True, False):
        options: dict[str, Any] = {"group_size": 4, "norm_before_gate": first}
        close(replacements.gated_rms_norm(x, z, weight, **options), papers.gated_rms_norm(x, z, weight, **options))


def test_the_second_form_of_attention_is_pytorchs() -> None:
    torch.manual_seed(0)
    q, k, v = drawn(2, 4, 7, 8), drawn(2, 2, 7, 8), drawn(2, 2, 7, 8)
    ours, theirs = replacements.scaled_dot_product_attention, F.scaled_dot_product_attention
    for options in ({"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.ones(7, 7, dtype=torch.bool).tril(2)}):
        close(ours(q, k, v, enable_gqa=True, **options), theirs(q, k, v, enable_gqa=True, **options))


def test_a_second_form_computes_in_float64_and_returns_what_it_was_given() -> None:
    torch.manual_seed(0)
    single = scan_arguments("float32")
    found, state = replacements.selective_scan(*single)
    assert found.dtype == state.dtype == torch.float32
    double: list[Any] = [each.double() if isinstance(each, torch.Tensor) else each for each in single]
    assert torch.equal(found, papers.selective_scan(*double)[0].float())


@pytest.mark.parametrize("name", STANDINS)
def test_every_operation_that_a_stand_in_calls_can_be_replaced(name: str) -> None:
    model = loading.load(MIRROR / "scanproof" / name)
    tokens = torch.arange(5, 45)[None]
    found = sites.find_replacements(model, False)
    with sites.count_calls(found) as calls, torch.no_grad():
        as_is = model(tokens).logits
    assert set(calls) == STANDINS[name]
    with sites.replace_operations(found, set(calls)), torch.no_grad():
        replaced = model(tokens).logits
    torch.testing.assert_close(replaced, as_is, rtol=1e-3, atol=1e-3)
    assert not torch.equal(replaced, as_is), "something was replaced"
    assert vars(import_module("scanproof.models.layers"))["ssd"] is papers.ssd, "and put back"


def test_the_departure_is_the_layer_and_position_of_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loading.load(MIRROR / "scanproof" / "mamba2-tiny")
    tokens = torch.arange(5, 45)[None]
    assert departure.find_departure(model, tokens, False) is None, "a correct model stays beside its float64 run"
    calls = []

    def wrong_in_the_second_layer(*args: Any, **kwargs: Any) -> Any:
        y, state = papers.ssd(*args, **kwargs)
        calls.append(1)
        if len(calls) % len(model.backbone.layers) == 2:
            y = y.clone()
            # One head: the norm behind it takes a common factor away.
            y[:, 23:, 0] *= 1.01
        return y, state

    monkeypatch.setattr("scanproof.models.layers.ssd", wrong_in_the_second_layer)
    found = departure.find_departure(model, tokens, False)
    assert found is not None
    assert (found["layer"], found["position"]) == (1, 23)
    assert found["error"] > found["allowed"]


def test_requests_are_the_questions_as_they_were_kept() -> None:
    shared = {"prompts": ["A"], "choices": [" b", " c"]}
    each = {"prompts": ["A", "B"], "choices": [" d", " d"]}
    assert score.pairs_of(shared) == [("A", " b"), ("A", " c")]
    assert score.pairs_of(each) == [("A", " d"), ("B", " d")]
    assert score.differences([1.0, float("nan")], [1.0, 2.0]) == [0.0, float("inf")]
