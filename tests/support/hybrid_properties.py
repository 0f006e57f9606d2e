"""What is asked of a whole hybrid that goes on from its cache: expected logits beside those that came out.

Expected is always what the model says of the whole sequence, read at once without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.support.hybrid_caches import Held, Server
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scanproof.kernels import divergence
else:
    torch, divergence = Late("torch"), Late("scanproof.kernels.divergence")

PREFILL = 11
DRAFT = 5
Logits = list[tuple[str, "Tensor", "Tensor"]]
"""What is compared, expected logits, logits that came out."""


class WrongLogits(Exception):
    """The logits are further from the expected ones than rounding explains."""


class Turn(NamedTuple):
    """One call of a server: whose row is in the batch, in that order, and how many tokens each reads."""

    requests: tuple[int, ...]
    length: int


EVICTION = (
    Turn((0, 1, 2), PREFILL),
    # Request 0 is out; it goes on alone, and comes back behind the others, which are as far then.
    Turn((1, 2), 8),
    Turn((0,), 8),
    Turn((1, 2, 0), 1),
    Turn((1, 2, 0), 6),
)
JOINING = (
    Turn((0, 1, 2), 7),
    Turn((0, 2), 3),
    # Request 3 joins after a prefill of its own, request 1 comes back; all have read different numbers of tokens.
    Turn((3,), 5),
    Turn((2, 0, 3), 1),
    Turn((2, 3), 1),
    Turn((3, 0), 4),
    Turn((1, 0, 3), 1),
    Turn((0, 1, 3, 2), 2),
)


@cache
def draw_tokens(rows: int, length: int) -> Tensor:
    """(rows, length) token ids that every vocabulary here has; none is a special token."""
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(1))


def split(server: Server) -> Logits:
    """A prefill in two pieces, cut at every offset of a chunk and one more, and in several."""
    length = 2 * server.hybrid.chunk + 3
    tokens = draw_tokens(2, length)
    whole = server.read_whole(tokens)
    cuts: list[list[int]] = [[cut] for cut in range(1, server.hybrid.chunk + 2)]
    return [
        (f"pieces of {lengths} and the rest", whole, server.read_pieces(tokens, lengths, server.start(2)))
        for lengths in [*cuts, [5, 3, 9, 1]]
    ]


def steps(server: Server) -> Logits:
    """One position after the other, from the first on, and after a prefill."""
    tokens = draw_tokens(2, 2 * server.hybrid.chunk + 3)
    whole = server.read_whole(tokens)
    count = tokens.shape[1]
    return [
        ("steps", whole, server.read_pieces(tokens, [1] * count, server.start(2))),
        ("prefill, then steps", whole, server.read_pieces(tokens, [9, *[1] * (count - 9)], server.start(2))),
    ]


def prefilled(server: Server, tokens: Tensor) -> Held:
    """The cache after the first `PREFILL` tokens."""
    held = server.start(len(tokens))
    server.read(tokens[:, :PREFILL], held)
    return held


def copied(server: Server) -> Logits:
    """From a copy of the cache, after others went on from the cache that was copied."""
    tokens = draw_tokens(3, 21)
    whole, held = server.read_whole(tokens)[:, PREFILL:], prefilled(server, tokens)
    copy, other = server.copied(held), draw_tokens(3, 40)[:, 30:]
    server.go_on(other, held)
    return [("from a copy", whole, server.go_on(tokens[:, PREFILL:], copy))]


def moved(server: Server) -> Logits:
    """After a move to other rows: in another order, alone, twice."""
    tokens = draw_tokens(3, 21)
    whole, held = server.read_whole(tokens), prefilled(server, tokens)
    return [
        (
            f"rows {index}",
            whole[index][:, PREFILL:],
            server.go_on(tokens[index][:, PREFILL:], server.rows(held, index)),
        )
        for index in ([2, 0, 1], [1], [0, 0, 2])
    ]


def serve(server: Server, turns: Sequence[Turn]) -> Logits:
    """Each request has what it has alone, whoever is in the batch with it and wherever its cache was in between."""
    requests = max(max(turn.requests) for turn in turns) + 1
    tokens = draw_tokens(requests, 40)
    whole, caches = server.read_whole(tokens), dict[int, Held]()
    logits: dict[int, list[Tensor]] = {request: [] for request in range(requests)}
    for turn in turns:
        fresh = [request for request in turn.requests if request not in caches]
        held = server.start(len(fresh)) if fresh else server.joined([caches[request] for request in turn.requests])
        read = [held.lengths[row] for row in range(len(turn.requests))]
        given = torch.stack([tokens[r, n : n + turn.length] for r, n in zip(turn.requests, read, strict=True)])
        out = server.go_on(given, held)
        for row, request in enumerate(turn.requests):
            logits[request].append(out[row])
            # Out of the batch, and out of the device's memory, until the next turn.
            caches[request] = server.moved(server.rows(held, [row]), "cpu")
    joined = {request: torch.cat(parts)[None] for request, parts in logits.items()}
    return [(f"request {r}", whole[r : r + 1, : got.shape[1]], got) for r, got in joined.items()]


def evicted(server: Server) -> Logits:
    """Rows that leave, and come back when they are as far as the others."""
    return serve(server, EVICTION)


def joined(server: Server) -> Logits:
    """Rows that join and leave at different lengths, behind what former tenants left in the places before them."""
    return serve(server, JOINING)


def reset(server: Server) -> Logits:
    """A cache that is used again for another text, after its own `reset`."""
    tokens, other = draw_tokens(3, 21), draw_tokens(3, 40)[:, 20:]
    whole, held = server.read_whole(tokens), server.start(3)
    server.read(other, held)
    held.cache.reset()
    held.lengths = [0] * 3
    first = server.read(tokens[:, :PREFILL], held)
    return [("after reset", whole, torch.cat([first, server.go_on(tokens[:, PREFILL:], held)], dim=1))]


def drafts(server: Server) -> Iterator[tuple[int, Tensor, Tensor]]:
    """k, the tokens of a text, and a draft behind its first `PREFILL`, of which the first k are right."""
    tokens = draw_tokens(2, 21)
    wrong = (draw_tokens(2, 40)[:, 30 : 30 + DRAFT] + 1) % 97
    for k in range(DRAFT + 1):
        yield k, tokens, torch.cat([tokens[:, PREFILL : PREFILL + k], wrong[:, k:]], dim=1)


def rollback(server: Server) -> Logits:
    """Of a draft, k of n are accepted: the cache is taken back to a copy, and the accepted tokens are read again."""
    compared: Logits = []
    for k, tokens, draft in drafts(server):
        whole, held = server.read_whole(tokens), prefilled(server, tokens)
        before = server.copied(held)
        drafted = server.go_on(draft, held)
        if k:
            compared.append((f"{k} of {DRAFT}: draft", whole[:, PREFILL : PREFILL + k], drafted[:, :k]))
            server.go_on(tokens[:, PREFILL : PREFILL + k], before)
        rest = server.go_on(tokens[:, PREFILL + k :], before)
        compared.append((f"{k} of {DRAFT}: after it", whole[:, PREFILL + k :], rest))
    return compared


def crop(server: Server) -> Logits:
    """Of a draft, k of n are accepted, and the cache removes the others by its own `crop`."""
    compared: Logits = []
    for k, tokens, draft in drafts(server):
        held = prefilled(server, tokens)
        held.cache.activate_past_recording()
        server.read(draft, held)
        held.cache.crop(k - DRAFT)
        held.lengths = [PREFILL + k] * 2
        whole, rest = server.read_whole(tokens), tokens[:, PREFILL + k :]
        compared.append((f"{k} of {DRAFT}", whole[:, PREFILL + k :], server.go_on(rest, held)))
    return compared


def read_padded(server: Server, cut: int, steps: bool) -> Logits:
    """Texts with padding on their left, read in two pieces, or what comes after the first one position by position."""
    tokens, pad = draw_tokens(2, 17), 4
    given = torch.cat([torch.zeros(2, pad, dtype=torch.long), tokens], dim=1)
    real = torch.ones_like(given, dtype=torch.bool)
    real[:, :pad] = False
    held = server.start(2)
    pieces = [given[:, :cut], *torch.split(given[:, cut:], 1 if steps else given.shape[1], dim=1)]
    logits = [server.read(piece, held, real[:, : held.longest + piece.shape[1]]) for piece in pieces]
    return [(f"cut at {cut}", server.read_whole(tokens), torch.cat(logits, dim=1)[:, pad:])]


def left_padding(server: Server) -> Logits:
    """Texts that are padded on the left, in two pieces; the cut may be in the padding."""
    steps = server.hybrid.one_by_one
    return [pair for cut in (4, 5, PREFILL, *([] if steps else [2])) for pair in read_padded(server, cut, steps)]


def padded_step(server: Server) -> Logits:
    """The same, where some of the single positions are padding."""
    return read_padded(server, 2, steps=True)


def selected(server: Server) -> Logits:
    """Rows in another order, by the cache's `batch_select_indices`."""
    tokens, index = draw_tokens(3, 21), [2, 0, 1]
    whole, held = server.read_whole(tokens)[index], prefilled(server, tokens)
    held.cache.batch_select_indices(torch.tensor(index, device=server.device))
    return [("selected rows", whole[:, PREFILL:], server.go_on(tokens[index][:, PREFILL:], held))]


def untold(server: Server) -> Logits:
    """Pieces and steps of a model that is not told the positions, which its cache knows."""
    server.hybrid = replace(server.hybrid, positions=False)
    tokens = draw_tokens(2, 21)
    pieces = server.read_pieces(tokens, [PREFILL, *[1] * 10], server.start(2))
    return [("positions from the cache", server.read_whole(tokens), pieces)]


PROPERTIES: dict[str, Callable[[Server], Logits]] = {
    "split": split, "steps": steps, "copied": copied, "moved": moved, "evicted": evicted, "different lengths": joined,
    "reset": reset, "rollback": rollback, "left padding": left_padding, "padded step": padded_step,
    "crop": crop, "selected": selected,
    "no positions": untold,
}  # fmt: skip


def assert_near(compared: Logits, dtype: str, tf32: bool = False, most: float | None = None) -> None:
    """Compare each pair.

    Args:
        most: of what is known to be wrong, the largest divergence at one position, in nats, that is that defect.

    Raises:
        WrongLogits: a pair is further apart than a correct way may be; the message has every such pair.
        AssertionError: a pair is further apart than what is known explains.
    """
    # The bar of float32 holds in float64 as well: transformers' norms compute in float32 there.
    apart = [(name, divergence.kl_divergence(expected, got)) for name, expected, got in compared]
    worse = [f"{name}: {found}" for name, found in apart if most is not None and not found.worst <= most]
    assert not worse, f"more than what is known, {most} nats: {worse}"
    above = [(name, found.excess(dtype.replace("float64", "float32"), tf32)) for name, found in apart]
    wrong = [f"{name}: {why}" for name, why in above if why]
    if wrong:
        raise WrongLogits("\n".join(wrong))
