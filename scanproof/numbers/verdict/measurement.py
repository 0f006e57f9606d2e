"""What an evaluation measured of one task and metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number that an evaluation produced."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")
    # JSON has no NaN.  Write NaN as text so that it reads back as NaN; as null it would look like a missing value.

    task: str
    metric: str
    value: float
    """Natural unit: accuracies as fractions, perplexities raw."""
    stderr: float | None
    n_samples: int
    """Documents scored."""
    num_fewshot: int | None = None
    task_version: str | None = None
    prompts_hash: str | None = None
    """Digest of the prompt hashes of all documents, in order."""
