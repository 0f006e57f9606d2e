"""Run a hybrid from its cache; copy the cache, take rows out of it and put rows together, as a server does.

Letters: b rows, l positions of a call, s earlier positions, k key heads, p headdim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanproof.models import cache_names
from tests.support.hybrids import Hybrid
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers
    from torch import Tensor

    from scanproof.models.mamba_in_llama import cache as llama_cache
else:
    torch, transformers = Late("torch"), Late("transformers")
    llama_cache = Late("scanproof.models.mamba_in_llama.cache")

LEFT_BEHIND = 3.0
"""What a former tenant left in places of keys and values that are hidden by the mask."""
Path = tuple[str | int, ...]


@dataclass
class Held:
    """A cache, and how many positions each of its rows has read."""

    cache: Any
    lengths: list[int]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def hides(self) -> Tensor:
        """(b, s) bool, True at the places of keys that belong to nobody: those in front of a shorter row."""
        return torch.arange(self.longest) < self.longest - torch.tensor(self.lengths)[:, None]


class Server:
    """A hybrid that goes on from caches."""

    def __init__(self, hybrid: Hybrid, dtype: str, device: str) -> None:
        self.hybrid, self.device = hybrid, device
        self.model = hybrid.make(dtype, device)

    def read_whole(self, tokens: Tensor, **options: Any) -> Tensor:
        """Logits (b, l, vocabulary) of whole sequences without a cache, on the host."""
        options = {name: value.to(self.device) for name, value in options.items()}
        return torch.as_tensor(self.model(tokens.to(self.device), **options).logits).cpu()

    def start(self, rows: int) -> Held:
        """An empty cache."""
        makers: dict[str, Callable[[], Any]] = {
            "values": lambda: self.model.initial_state(rows),
            "HybridCache": lambda: llama_cache.HybridCache(),
            "DynamicCache": lambda: transformers.DynamicCache(config=self.model.config),
        }
        return Held(makers[self.hybrid.keeps](), [0] * rows)

    def read(self, tokens: Tensor, held: Held, real: Tensor | None = None) -> Tensor:
        """Logits (b, l, vocabulary) of the next tokens (b, l), on the host; `held` goes on.

        Args:
            real: (b, s + l) bool, False where a position is padding; None where only those are that `held` hides.
        """
        output = self.model(tokens.to(self.device), **self._options(tokens, held, real))
        if self.hybrid.keeps == "values":
            held.cache = output.state
        held.lengths = [length + tokens.shape[1] for length in held.lengths]
        return torch.as_tensor(output.logits).cpu()

    def _options(self, tokens: Tensor, held: Held, real: Tensor | None) -> dict[str, Any]:
        if self.hybrid.keeps == "values":
            return {"state": held.cache}
        options: dict[str, Any] = {cache_names.name_cache(self.model.forward): held.cache, "use_cache": True}
        length, seen = tokens.shape[1], torch.tensor(held.lengths)[:, None]
        positions = seen + torch.arange(length)
        if real is None and len(set(held.lengths)) > 1:
            real = torch.cat([~held.hides(), torch.ones(len(tokens), length, dtype=torch.bool)], dim=1)
            options["position_ids"] = positions.to(self.device)
        elif real is not None:
            options["position_ids"] = (real.cumsum(dim=1) - 1).clamp(min=0)[:, -length:].to(self.device)
        elif self.hybrid.positions:
            options["position_ids"] = positions.to(self.device)
        if real is not None:
            options["attention_mask"] = real.long().to(self.device)
        return options

    def read_pieces(self, tokens: Tensor, lengths: Sequence[int], held: Held) -> Tensor:
        """Logits of pieces, one after the other; `lengths` may leave out the last one."""
        rest = tokens.shape[1] - sum(lengths)
        pieces = torch.split(tokens, [*lengths, rest] if rest else list(lengths), dim=1)
        return torch.cat([self.read(piece, held) for piece in pieces], dim=1)

    def go_on(self, tokens: Tensor, held: Held) -> Tensor:
        """Logits of the next tokens, in one piece where the model can do that."""
        steps = self.hybrid.one_by_one and held.longest > 0
        return self.read_pieces(tokens, [1] * tokens.shape[1] if steps else [], held)

    def copied(self, held: Held) -> Held:
        """A copy that shares nothing."""
        return Held(copy.deepcopy(held.cache), list(held.lengths))

    def rows(self, held: Held, index: Sequence[int]) -> Held:
        """The rows `index`, in that order, by the cache's own method for that; `held` stays as it is."""
        taken = self.copied(held)
        chosen = torch.tensor(index, device=self.device)
        if self.hybrid.keeps == "values":
            taken.cache = held.cache.rows(index)
        else:
            taken.cache.reorder_cache(chosen)
        return Held(taken.cache, [held.lengths[row] for row in index])

    def moved(self, held: Held, device: str) -> Held:
        """A copy in the memory of another device."""
        return Held(change_tensors([held.cache], lambda parts: parts[0].to(device, copy=True)), list(held.lengths))

    def joined(self, helds: Sequence[Held]) -> Held:
        """One cache with the rows of several, on the model's device; shorter rows have a former tenant's keys in front.

        Places of keys that belong to nobody are left out of each before.
        """
        lengths = [length for held in helds for length in held.lengths]
        longest = max(lengths)

        def join(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([part.to(self.device) for part in parts])

        def join_keys(parts: Sequence[Tensor]) -> Tensor:
            rows = []
            for held, part in zip(helds, parts, strict=True):
                for row, length in zip(part, held.lengths, strict=True):
                    padded = row.new_full((row.shape[0], longest, row.shape[2]), LEFT_BEHIND)
                    padded[:, longest - length :] = row[:, row.shape[1] - length :]
                    rows.append(padded.to(self.device))
            return torch.stack(rows)

        cache = change_tensors([held.cache for held in helds], join, join_keys)
        if self.hybrid.keeps == "HybridCache":
            cache.seen = longest
        return Held(cache, lengths)


def change_tensors(caches: Sequence[Any], change: Callable[[Sequence[Tensor]], Tensor], change_keys: Any = None) -> Any:
    """A new cache, each tensor of which is made of those of the given ones; keys and values by `change_keys`."""
    new = copy.deepcopy(caches[0])
    for path in list_tensors(new):
        made = change if change_keys is None or path[-1] not in ("keys", "values") else change_keys
        put_tensor(new, path, made([get_tensor(cache, path) for cache in caches]))
    return new


def list_tensors(cache: Any) -> list[Path]:
    """The places of all tensors in a cache."""
    paths: list[Path] = []
    for number, layer in enumerate(cache.layers):
        for name in ("conv", "ssm", "keys", "values"):
            if getattr(layer, name, None) is not None:
                paths.append(("layers", number, name))
        for table in ("conv_states", "recurrent_states"):
            states_ = getattr(layer, table, {})
            paths += [("layers", number, table, slot) for slot, state in states_.items() if state is not None]
    for number in getattr(cache, "states", {}):
        paths += [("states", number, name) for name in ("conv", "ssm")]
    return paths


def get_tensor(cache: Any, path: Path) -> Tensor:
    """The tensor at a place: a name is an attribute, a number an index or a key."""
    for step in path:
        cache = getattr(cache, step) if isinstance(step, str) else cache[step]
    return torch.as_tensor(cache)


def put_tensor(cache: Any, path: Path, value: Tensor) -> None:
    """Write a tensor to its place."""
    holder: Any = cache
    for step in path[:-1]:
        holder = getattr(holder, step) if isinstance(step, str) else holder[step]
    if isinstance(path[-1], str):
        # A state of scanproof's own is frozen; this one is a copy that nobody else has.
        object.__setattr__(holder, path[-1], value)
    else:
        holder[path[-1]] = value
