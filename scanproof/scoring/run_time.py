"""How long a call takes with either engine, estimated from passes, kernel launches and positions.

On a GPU a pass of few positions takes as long as it takes to launch its kernels.  The shared engine runs fewer tokens
than plain, but its passes launch more kernels, and where memory or the shape of the tree allows only small batches, it
makes many passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scanproof.scoring.carried_state import Prefix
from scanproof.scoring.network import Network
from scanproof.scoring.prefix_tree import Query, Tree
from scanproof.scoring.schedule import Ran, ReadyNode, Schedule


@dataclass(frozen=True)
class Speed:
    """What a pass of the model costs on a kind of device."""

    fixed: float
    """Seconds of a pass apart from its launches and its positions."""
    launch: float
    """Seconds until a kernel is launched."""
    weights: float
    """Weights times positions that are computed in a second."""
    reading: int
    """Positions whose computation takes as long as reading the weights, which every pass does."""


SPEEDS = {
    # Measured on a CPU core: 1 to 3 ms, and 13 positions.
    "cpu": Speed(fixed=2**-9, launch=0.0, weights=2**34, reading=13),
    # Measured on an H100 whose 16 CPU cores and GPU 16 other processes used as well, so it is an upper bound: 2,362
    # passes of mamba-130m with 1,100 launches each took 89.5 s.  Estimated: 200 TFLOP/s, and 128 positions, the number
    # from which a GPU is busy computing rather than reading bfloat16 weights.
    "cuda": Speed(fixed=0.0, launch=33e-6, weights=1e14, reading=128),
}
"""Device type -> its speed."""


@dataclass(frozen=True)
class LaunchCounts:
    """Kernels that an engine launches, of mixers of the classes in `network.KINDS` and of others."""

    scan: int
    """By a mixer with a scan, in a pass."""
    attention: int
    """By a mixer with attention, in a pass."""
    segment: int = 0
    """By attention, for each node before a row whose keys and values it puts in their place."""
    request: int = 0
    """By lm-eval, for each request, reading the result back included."""


SHARED = LaunchCounts(scan=48, attention=80, segment=2)
"""Counted with float32 on a CPU, in which each kernel is one launch and SSD seven; half precision adds conversions."""
PLAIN = LaunchCounts(scan=14, attention=20, request=8)
"""Counted in the fused paths of mamba_ssm's Mamba and Mamba2, and in lm-eval's `_loglikelihood_tokens`."""
ELSEWHERE = 2
"""Kernels of a module outside of mixers, with either engine."""


@dataclass(frozen=True)
class CallCost:
    """What a call costs with one engine."""

    passes: int
    launches: int
    positions: int
    """Padding included."""

    def seconds(self, network: Network, speed: Speed) -> float:
        """How long it takes."""
        positions = self.positions + self.passes * speed.reading
        return self.passes * speed.fixed + self.launches * speed.launch + positions * network.weights / speed.weights


def find_speed(network: Network) -> Speed:
    """The speed of the network's device."""
    return SPEEDS.get(network.device.type, SPEEDS["cuda"])


def find_overhead(network: Network) -> float:
    """Fixed cost of a pass of the shared engine, in positions."""
    speed = find_speed(network)
    seconds = speed.fixed + speed.launch * count_launches(network, SHARED)
    positions: float = seconds * speed.weights / network.weights
    return positions + speed.reading


def compare_engines(
    network: Network, schedule: Schedule, tree: Tree, requests: Sequence[Query], rows: int
) -> str | None:
    """Why plain is estimated to be as quick as the shared engine; None where shared is quicker, and on a CPU.

    On a CPU nothing is launched, and fewer tokens take less time.

    Args:
        schedule: the shared engine's, not yet walked.
        rows: of a batch of plain.
    """
    speed = find_speed(network)
    if not speed.launch:
        return None
    shared, plain = estimate_shared(network, schedule, tree), estimate_plain(network, requests, rows)
    ours, theirs = shared.seconds(network, speed), plain.seconds(network, speed)
    if ours < theirs:
        return None
    return (
        f"shared is not estimated to be quicker on this device: {ours:.3g} s in {shared.passes} passes with "
        f"{shared.launches} launches, plain {theirs:.3g} s in {plain.passes} with {plain.launches}"
    )


def estimate_plain(network: Network, requests: Sequence[Query], rows: int) -> CallCost:
    """What lm-eval's own path costs: distinct inputs, long ones first, `rows` in a batch."""
    lengths = sorted({query.tokens: len(query.tokens) for query in requests}.values(), reverse=True)
    batches = [lengths[start : start + rows] for start in range(0, len(lengths), rows)]
    launches = len(batches) * count_launches(network, PLAIN) + len(requests) * PLAIN.request
    return CallCost(len(batches), launches, sum(len(batch) * batch[0] for batch in batches))


def estimate_shared(network: Network, schedule: Schedule, tree: Tree) -> CallCost:
    """What the shared engine costs: the schedule is walked, and nothing runs."""
    passes = launches = positions = 0
    each, attending = count_launches(network, SHARED), len(find_attention(network))

    def count(batch: list[ReadyNode]) -> Ran:
        nonlocal passes, launches, positions
        length = max(len(ready.node.tokens) for ready in batch)
        passes += 1
        launches += each + attending * SHARED.segment * count_nodes([ready.prefix for ready in batch])
        positions += len(batch) * length
        parents = [ready for ready in batch if ready.node.children]
        following = []
        for parent in parents:
            prefix = Prefix(parent.prefix, len(parent.node.tokens), {}, 0)
            following += [ReadyNode(child, prefix) for child in parent.node.children]
        return Ran(following, int(network.kept_bytes(len(parents), len(parents) * length)))

    schedule.walk(tree, count)
    return CallCost(passes, launches, positions)


def count_nodes(prefixes: Sequence[Prefix | None]) -> int:
    """Number of distinct nodes before some rows."""
    nodes: set[int] = set()
    for prefix in prefixes:
        for node in prefix.walk_up() if prefix else ():
            if id(node) in nodes:
                break
            nodes.add(id(node))
    return len(nodes)


def count_launches(network: Network, launches: LaunchCounts) -> int:
    """Kernels that a pass launches, apart from those for each node before a row."""
    scans = [mixer for mixer, kind in network.mixers if kind.form is not None]
    within = {id(module) for mixer, _ in network.mixers for module in mixer.modules()}
    others = [module for module in network.model.modules() if id(module) not in within and not any(module.children())]
    attention = len(find_attention(network)) * launches.attention
    return len(scans) * launches.scan + attention + len(others) * ELSEWHERE


def find_attention(network: Network) -> list[object]:
    """The layers that keep keys and values: those of `network.KINDS`, and transformers'."""
    known = [mixer for mixer, _ in network.mixers]
    ours = [mixer for mixer, kind in network.mixers if kind.form is None]
    theirs = [
        module
        for module in network.model.modules()
        if type(module).__name__.endswith("Attention") and all(module is not mixer for mixer in known)
    ]
    return [*ours, *theirs]
