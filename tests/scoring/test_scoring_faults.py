"""Faults planted where a state is passed on: in every kind of model, the comparison with plain sees each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models import layers, states
    from scanproof.scoring import carried_state, mixer_forms
else:
    torch, mixer_forms = Late("torch"), Late("scanproof.scoring.mixer_forms")
    layers, states = Late("scanproof.models.layers"), Late("scanproof.models.states")
    carried_state = Late("scanproof.scoring.carried_state")

Fault = Callable[[pytest.MonkeyPatch], None]
START = [5, 6, 7, 8, 9, 10, 11]
PAIRS = [
    # Nodes of 2, 6, 6 and 11 tokens after one of 7, each with branches, so that one batch has them all.
    *(([*START, 20, 21], [number, 1]) for number in range(30, 39)),
    *(([*START, *range(40, 46)], [number, 2, 3]) for number in (50, 51, 52)),
    *(([*START, *range(150, 156)], [number, 2, 3]) for number in (160, 161, 162)),
    *(([*START, *range(60, 71)], [number]) for number in (80, 81, 82)),
    # Without a prefix: the same batches have a row with no earlier tokens, and a prefix of another length.
    *((list(range(100, 103)), [number, 4]) for number in (110, 111, 112)),
    *((list(range(120, 140)), [number, 4]) for number in (140, 141, 142)),
]


Scored = Callable[[str], tuple[Any, list[small.Answer]]]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Name -> a model and its plain scores of PAIRS; made once, and checked before a fault is planted."""
    folder = tmp_path_factory.mktemp("faults")

    @cache
    def made(name: str) -> tuple[Any, list[small.Answer]]:
        lm = small.model(folder, name)
        expected = small.one_by_one(lm, PAIRS)
        assert small.apart(expected, small.shared(lm, PAIRS)[0]) < small.CLOSE
        return lm, expected

    return made


def forgotten_window(patch: pytest.MonkeyPatch) -> None:
    before, window = carried_state.CarriedState.read_scan_states, carried_state.CarriedState.read_windows

    def wrong(self: Any, slot: int, empty: Any) -> Any:
        state = before(self, slot, empty)
        return states.ScanState(torch.zeros_like(state.conv), state.ssm)

    patch.setattr("scanproof.scoring.carried_state.CarriedState.read_scan_states", wrong)
    patch.setattr(
        "scanproof.scoring.carried_state.CarriedState.read_windows",
        lambda self, slot, empty: 0 * window(self, slot, empty),
    )


def forgotten_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scanproof.scoring.carried_state.CarriedState._segments", lambda self, slot: iter(()))


def window_off_by_one(patch: pytest.MonkeyPatch) -> None:
    window = mixer_forms.cut_window

    def wrong(joined: Any, width: int, passing: Any) -> Any:
        return window(joined.roll(1, dims=-1), width, passing)

    patch.setattr("scanproof.scoring.mixer_forms.cut_window", wrong)


def window_of_this_pass_alone(patch: pytest.MonkeyPatch) -> None:
    """Wrong only after a node that is shorter than the window."""
    window = mixer_forms.cut_window

    def wrong(joined: Any, width: int, passing: Any) -> Any:
        return window(torch.cat([torch.zeros_like(joined[..., :width]), joined[..., width:]], dim=-1), width, passing)

    patch.setattr("scanproof.scoring.mixer_forms.cut_window", wrong)


def neighbour(patch: pytest.MonkeyPatch) -> None:
    """Take the state of the next row with the same length; keys of another length would not fit."""
    make = carried_state.CarriedState.make_prefix

    def wrong(self: Any, number: int) -> Any:
        alike = [place for place, length in enumerate(self.lengths) if length == self.lengths[number]]
        return dataclasses.replace(make(self, number), row=alike[(alike.index(number) + 1) % len(alike)])

    patch.setattr("scanproof.scoring.carried_state.CarriedState.make_prefix", wrong)


def padding_in_the_window(patch: pytest.MonkeyPatch) -> None:
    window = mixer_forms.cut_window

    def wrong(joined: Any, width: int, passing: Any) -> Any:
        whole = carried_state.CarriedState(
            passing.prefixes, [joined.shape[-1] - width] * len(joined), True, passing.device
        )
        return window(joined, width, whole)

    patch.setattr("scanproof.scoring.mixer_forms.cut_window", wrong)


def padding_in_the_scan(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scanproof.scoring.carried_state.CarriedState.real", None)


def padding_among_the_keys(patch: pytest.MonkeyPatch) -> None:
    cut = carried_state.Prefix.segment

    def wrong(self: Any, slot: int) -> Any:
        whole, right = self.kept[slot], cut(self, slot)
        # As many keys, but from the end of the padded row.
        keys, values = (part[self.row, :, -self.length :] for part in (whole.keys, whole.values))
        return carried_state.Segment(keys, values, right.conv)

    patch.setattr("scanproof.scoring.carried_state.Prefix.segment", wrong)


def wrong_parent(patch: pytest.MonkeyPatch) -> None:
    """Take the earlier keys and values of another row whose prefix has the same length."""
    behind = carried_state.CarriedState._prefix_nodes.func  # type: ignore[attr-defined]

    def wrong(self: Any) -> Any:
        found = behind(self)
        alike: dict[tuple[int, int], list[int]] = {}
        for place, (stop, prefix, _) in enumerate(found):
            alike.setdefault((stop, prefix.length), []).append(place)
        turned = list(found)
        for places in alike.values():
            for place, other in zip(places, places[1:] + places[:1], strict=True):
                turned[place] = (found[place][0], found[other][1], found[place][2])
        return turned

    replaced = cached_property(wrong)
    replaced.__set_name__(carried_state.CarriedState, "_prefix_nodes")
    patch.setattr("scanproof.scoring.carried_state.CarriedState._prefix_nodes", replaced)


def rotated_one_too_far(patch: pytest.MonkeyPatch) -> None:
    rotate: Any = layers.rotate
    positions = carried_state.CarriedState.positions.func  # type: ignore[attr-defined]
    patch.setattr(
        "scanproof.scoring.attention.rotate",
        lambda *args, start=0: rotate(*args, start=start + (start > 0)),
    )
    patch.setattr(
        "scanproof.scoring.carried_state.CarriedState.positions",
        property(lambda self: positions(self) + (torch.tensor(self.seen)[:, None] > 0).long()),
    )


def rotated_as_the_longest(patch: pytest.MonkeyPatch) -> None:
    """All rows get the positions of the row with the longest prefix."""
    init = carried_state.CarriedState.__init__

    def wrong(self: Any, prefixes: Any, lengths: Any, keep: bool, device: Any) -> None:
        init(self, prefixes, lengths, keep, device)
        _ = self.visible
        vars(self).pop("starts", None)
        self.seen = [max(self.seen)] * len(self.seen)

    patch.setattr("scanproof.scoring.carried_state.CarriedState.__init__", wrong)


def nothing_hidden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scanproof.scoring.carried_state.CarriedState.visible", None)


SCANS = ("mamba1", "mamba2")
HYBRIDS = ("mamba2attn", "mamba_hybrid", "megatron")
ATTENTION = ("transformer", "llama")
CONVOLVED = (*SCANS, "transformer", *HYBRIDS)
TABLE: list[tuple[Fault, tuple[str, ...]]] = [
    (small.forgotten_scan_state, (*SCANS, *HYBRIDS)),
    (forgotten_window, CONVOLVED),
    (forgotten_keys, (*ATTENTION, *HYBRIDS)),
    (window_off_by_one, CONVOLVED),
    (window_of_this_pass_alone, CONVOLVED),
    (neighbour, (*SCANS, *ATTENTION, *HYBRIDS)),
    (padding_in_the_window, CONVOLVED),
    (padding_in_the_scan, (*SCANS, *HYBRIDS)),
    (padding_among_the_keys, (*ATTENTION, *HYBRIDS)),
    (wrong_parent, (*ATTENTION, *HYBRIDS)),
    # NemotronH has no rotary positions.
    (rotated_one_too_far, (*ATTENTION, *HYBRIDS[:2])),
    (rotated_as_the_longest, (*ATTENTION, *HYBRIDS[:2])),
    (nothing_hidden, (*ATTENTION, *HYBRIDS)),
]


@pytest.mark.parametrize(
    ("fault", "name"),
    [pytest.param(fault, name, id=f"{fault.__name__}-{name}") for fault, names in TABLE for name in names],
)
def test_a_fault_in_what_is_handed_over_is_seen(
    fault: Fault, name: str, scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lm, expected = scored(name)
    fault(monkeypatch)
    assert small.apart(expected, small.shared(lm, PAIRS)[0]) > 10 * small.CLOSE
