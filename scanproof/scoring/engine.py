"""Score each distinct token once: run the prefix tree of a call's requests in batches, children after parents.

lm-eval runs the whole prompt again for every choice, and for every question after the same examples.  Here each node of
the tree (`scanproof.scoring.prefix_tree`) runs once.  Its children start from its state, which is freed after the last
child has run.  Logits are computed at scored positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from scanproof.scoring import run_time
from scanproof.scoring.carried_state import CarriedState
from scanproof.scoring.network import Network
from scanproof.scoring.prefix_tree import Query, Tree, build_tree
from scanproof.scoring.schedule import Limits, Ran, ReadyNode, Schedule
from scanproof.scoring.spot_checks import SampledAnswer
from scanproof.scoring.tree_depth import Prices, choose_dissolved

SLACK = 0.08
"""Share of the distinct tokens that may run twice where that saves a pass of the model."""
SLACK_OF_LAUNCHES = 0.5
"""The same on a device that kernels are launched on: there tokens are cheap, and passes are not."""
HANDOVER = 1 / 64
"""Cost of passing a state to the children of a node, as a share of the fixed cost of a pass."""
Say = Callable[[str], None]


@dataclass
class Tally:
    """Counts of what was scored; they grow during scoring."""

    plain_tokens: int = 0
    """Tokens that the engine `plain`, lm-eval as it is, would run."""
    distinct_tokens: int = 0
    """Tokens that have to run at least once: the lower bound."""
    passes: int = 0
    """Passes of the model."""
    tokens: int = 0
    """Tokens that ran, without padding."""
    padding: int = 0
    """Padded positions of batches."""
    scored_positions: int = 0
    """Positions whose logits were computed."""
    peak_state_bytes: int = 0
    """Most memory that states took at one time."""
    notes: list[str] = field(default_factory=list)
    """Messages for the reader of the run."""
    sampled: list[SampledAnswer] = field(default_factory=list)
    """Requests that lm-eval's own path will score as well."""
    declined: str | None = None
    """Why lm-eval's own path scores all requests, although the engine could; None where the engine scores them."""


class Engine:
    """Scores the requests of a call to lm-eval's `_loglikelihood_tokens`."""

    def __init__(
        self, network: Network, limits: Limits, softmax_dtype: torch.dtype | None, tally: Tally, say: Say
    ) -> None:
        """
        Args:
            softmax_dtype: dtype of the log-probabilities; None for that of the logits.
            say: is told, in a sentence, what a reader of the run should know.
        """
        self.network, self.limits, self.softmax_dtype = network, limits, softmax_dtype
        self.tally, self.say = tally, say
        self.overhead = run_time.find_overhead(network)
        """Fixed cost of a pass, in positions."""

    def plan(self, requests: Sequence[Query]) -> Tree:
        """The prefix tree that is cheapest to run."""
        slack = SLACK_OF_LAUNCHES if run_time.find_speed(self.network).launch else SLACK
        prices = Prices(level=self.overhead, row=HANDOVER * self.overhead, slack=slack)
        return build_tree(requests, partial(choose_dissolved, prices=prices))

    def why_plain(self, tree: Tree, requests: Sequence[Query], rows: int) -> str | None:
        """Why lm-eval's own path, with `rows` rows in a batch, is preferred; None where this engine is."""
        return run_time.compare_engines(self.network, self._make_schedule(), tree, requests, rows)

    def score(self, tree: Tree, requests: Sequence[Query], answered: Callable[[int, float, bool], None]) -> None:
        """Score the requests.

        Args:
            tree: what `plan` made of them.
            answered: called once per request with its index, its log-likelihood in nats, and whether every token of
                the continuation is the most probable one.
        """
        self.tally.plain_tokens += tree.plain
        self.tally.distinct_tokens += tree.distinct
        scores = Scores(requests, answered)
        schedule = self._make_schedule()

        def run(batch: list[ReadyNode]) -> Ran | None:
            outcome = self._run(batch, schedule)
            if outcome is None:
                return None
            log_probabilities, carried = outcome
            scores.add(batch, log_probabilities)
            self.tally.peak_state_bytes = max(self.tally.peak_state_bytes, schedule.held + carried.new_bytes)
            return Ran(ready_children(batch, carried), carried.new_bytes)

        schedule.walk(tree, run)

    def _make_schedule(self) -> Schedule:
        return Schedule(self.network, self.limits, self.overhead)

    def _run(self, batch: Sequence[ReadyNode], schedule: Schedule) -> tuple[Tensor, CarriedState] | None:
        """`_forward` of a batch; None where memory ran out, and then later batches are smaller."""
        try:
            return self._forward(batch)
        except Exception as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        # Outside the except block, the traceback no longer holds the tensors of the failed pass.
        schedule.rows = len(batch) // 2
        self._tell_halved(len(batch))
        return None

    def _forward(self, batch: Sequence[ReadyNode]) -> tuple[Tensor, CarriedState]:
        """Log-probabilities (n, vocabulary) at the n `scored_positions` of a batch, and the states after its rows."""
        lengths = [len(ready.node.tokens) for ready in batch]
        keep = bool(batch[0].node.children)
        device = self.network.device
        carried = CarriedState([ready.prefix for ready in batch], lengths, keep, device)
        tokens = pad_sequence([torch.tensor(ready.node.tokens) for ready in batch], batch_first=True).to(device)
        rows, positions = torch.tensor(scored_positions(batch), dtype=torch.long, device=device).view(-1, 2).T
        logits = self.network.run(tokens, carried, (rows, positions))
        # As in lm-eval: in the dtype of the logits unless another is set.
        log_probabilities = log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        self.tally.passes += 1
        self.tally.tokens += sum(lengths)
        self.tally.padding += tokens.numel() - sum(lengths)
        self.tally.scored_positions += len(rows)
        return log_probabilities, carried

    def _tell_halved(self, rows: int) -> None:
        message = f"out of memory with {rows} rows; goes on with {rows // 2}"
        self.tally.notes.append(message)
        self.say(message)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()


class Scores:
    """Adds up the log-likelihood of each request from those of its tokens, which come in any order."""

    def __init__(self, requests: Sequence[Query], answered: Callable[[int, float, bool], None]) -> None:
        self._answered = answered
        self._values: list[list[float]] = [[] for _ in requests]
        self._greedy = [True] * len(requests)
        self._lengths = [len(query.continuation) for query in requests]

    def add(self, batch: Sequence[ReadyNode], log_probabilities: Tensor) -> None:
        """Read the scores of a batch's marks from the log-probabilities (n, vocabulary) at its `scored_positions`."""
        number = {place: index for index, place in enumerate(scored_positions(batch))}
        marks = [(number[row, mark.position], mark) for row, ready in enumerate(batch) for mark in ready.node.marks]
        if not marks:
            return
        index = torch.tensor([[place, mark.target] for place, mark in marks], device=log_probabilities.device)
        values = log_probabilities[index[:, 0], index[:, 1]].tolist()
        best = log_probabilities.argmax(dim=-1).tolist()
        for (place, mark), value in zip(marks, values, strict=True):
            self._add(mark.request, value, best[place] == mark.target, log_probabilities.dtype)

    def _add(self, request: int, value: float, greedy: bool, dtype: torch.dtype) -> None:
        values = self._values[request]
        values.append(value)
        self._greedy[request] &= greedy
        if len(values) == self._lengths[request]:
            # As in lm-eval: the sum is rounded to the dtype of the log-probabilities.
            total = torch.tensor(values, dtype=dtype).sum() if len(values) > 1 else values[0]
            self._answered(request, float(total), self._greedy[request])
            self._values[request] = []


def scored_positions(batch: Sequence[ReadyNode]) -> list[tuple[int, int]]:
    """(row, position) of each scored position of a batch, without repetition, in rising order."""
    return [
        (row, position)
        for row, ready in enumerate(batch)
        for position in sorted({mark.position for mark in ready.node.marks})
    ]


def ready_children(batch: Sequence[ReadyNode], carried: CarriedState) -> list[ReadyNode]:
    """The children of the nodes of a batch that has run."""
    ready = []
    for row, parent in enumerate(batch):
        if parent.node.children:
            prefix = carried.make_prefix(row)
            ready += [ReadyNode(child, prefix) for child in parent.node.children]
    return ready


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the host."""
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, (torch.OutOfMemoryError, MemoryError))
