"""Train a stand-in from its seed: `python -m scanproof.embedded.train --model mamba1-tiny`."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.embedded import MIRROR
from scanproof.embedded.architectures import finish_heads, make_blank, save
from scanproof.embedded.text import generate_documents
from scanproof.embedded.tokenizer import Codec, load_codec
from scanproof.embedded.world import SEED, build_world


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Number of steps, learning rate and batch of a training run."""

    steps: int
    rate: float
    """Highest learning rate of AdamW, after the warm-up; then it falls to a twentieth, as a cosine."""
    batch: int = 8
    """Rows of a batch."""
    length: int = 256
    """Tokens per row."""
    warmup: int = 100
    """Steps of the warm-up."""
    examinations: float = 0
    """As for `generate_documents`."""
    letters: float = 0
    """Weight of the mean loss of answers that are letters, beside the mean loss of all tokens."""
    then: TrainingPlan | None = None
    """What follows, with an optimizer of its own, from the weights in float16."""
    decay: float = 0.05
    """Weight decay of matrices other than A_log."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * share)))


EXAMINATIONS = TrainingPlan(steps=300, rate=2e-3, examinations=12, letters=0.5)
"""Teaches to read from the examples which letter is the usual one, which mmlu asks for."""
PLANS: dict[str, TrainingPlan] = {
    "mamba1-tiny": TrainingPlan(steps=1900, rate=1e-2),
    "mamba2-tiny": TrainingPlan(steps=2500, rate=1e-2),
    "mamba2attn-tiny": TrainingPlan(steps=2200, rate=1e-2),
    "pythia-tiny": TrainingPlan(steps=2200, rate=5e-3, then=EXAMINATIONS),
    "mamba-hybrid-tiny": TrainingPlan(steps=1500, rate=8e-3),
    "mamba2-hybrid-tiny": TrainingPlan(steps=2000, rate=8e-3),
    "megatron-hybrid-tiny": TrainingPlan(steps=2200, rate=8e-3, then=EXAMINATIONS),
}
"""Stand-in -> the plan with which its committed checkpoint was trained."""


def make_batches(plan: TrainingPlan, tokenizer: Codec, seed: str) -> Iterator[Tensor]:
    """Yield token ids (batch, length + 1), int64, without end; each row starts with a new document."""
    texts = generate_documents(build_world(), seed, plan.examinations)
    pending: list[list[int]] = []
    while True:
        rows = []
        for _ in range(plan.batch):
            row: list[int] = []
            while len(row) <= plan.length:
                if not pending:
                    pending = tokenizer.encode([next(texts) for _ in range(1000)])
                row += [*pending.pop(), tokenizer.end]
            rows.append(row[: plan.length + 1])
        yield torch.tensor(rows)


def make_optimizer(model: torch.nn.Module, plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW, with weight decay for matrices other than A_log only."""
    decayed = [p for n, p in model.named_parameters() if p.dim() >= 2 and not n.endswith("A_log")]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": plan.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.95))


def train(name: str, plan: TrainingPlan, seed: int = SEED) -> Any:
    """Train the stand-in `name` from random weights; returns the model.

    Where its heads are halved, that is done before the plan that follows: see `architectures.HALVED`.
    """
    torch.manual_seed(seed)
    model = finish_heads(name, run_plan(name, make_blank(name, whole_heads=True).train(), plan, f"{seed}-train"))
    if plan.then is not None:
        model = run_plan(name, model.half().float().train(), plan.then, f"{seed}-then")
    return model.eval()


def run_plan(name: str, model: Any, plan: TrainingPlan, seed: str) -> Any:
    """Train a model by the steps of a plan, but not by those of the plan that follows; returns the model."""
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {count:,} parameters, {plan.steps} x {plan.batch} x {plan.length} tokens", flush=True)
    optimizer = make_optimizer(model, plan)
    codec = load_codec(MIRROR / "scanproof" / name)
    letters = torch.tensor([ids[-1] for ids in codec.encode([" A", " B", " C", " D"])])
    stream = make_batches(plan, codec, seed)
    average, started = 0.0, time.monotonic()
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        rows = next(stream)
        logits = model(rows[:, :-1]).logits
        losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        loss = losses.mean()
        if plan.letters:
            loss = loss + plan.letters * losses[torch.isin(rows[:, 1:].flatten(), letters)].mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        _show_progress(step + 1, plan.steps, average, time.monotonic() - started)
    return model


def main(arguments: list[str]) -> None:
    """Train one model and write its checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, choices=list(PLANS))
    parser.add_argument("--steps", type=int, help="other than the plan's, and than those of the plan that follows")
    parser.add_argument("--rate", type=float, help="other than the plan's")
    parser.add_argument("--mirror", type=Path, default=MIRROR, help="folder that receives scanproof/<model>")
    options = parser.parse_args(arguments)
    plan = PLANS[options.model]
    then = plan.then and replace(plan.then, steps=options.steps or plan.then.steps)
    plan = replace(plan, steps=options.steps or plan.steps, rate=options.rate or plan.rate, then=then)
    save(train(options.model, plan), options.mirror / "scanproof" / options.model, torch.float16)


def _show_progress(step: int, steps: int, loss: float, seconds: float) -> None:
    every = 1 if sys.stdout.isatty() else 50
    if step % every and step != steps:
        return
    left = seconds / step * (steps - step)
    end = "\r" if sys.stdout.isatty() and step != steps else "\n"
    print(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s, {left:.0f} s left ", end=end, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
