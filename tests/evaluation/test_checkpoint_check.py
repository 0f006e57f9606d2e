"""Missing tensors are found in what transformers logs about them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from scanproof.evaluation.worker.checkpoint_check import IncompleteCheckpoint, require_complete_checkpoint
from tests.support import small_mirror as small

LACKING = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
REPORT = """\
GPTNeoXForCausalLM LOAD REPORT from: net
Key                | Status     |
-------------------+------------+
a.rotary.inv_freq  | UNEXPECTED |
\x1b[31mb.weight\x1b[0m           | MISSING    |
"""
OLDER = "Some weights of Net were not initialized from 'net' and are newly initialized: ['a.weight', 'b.weight']"


@pytest.fixture(params=[logging.ERROR, logging.WARNING])
def library(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """transformers' logger, at its default level and at the level that TRANSFORMERS_VERBOSITY=error sets."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(request.param)
    yield logger
    logger.setLevel(before)


@pytest.mark.parametrize(("text", "names"), [(REPORT, "1 tensors .*: b.weight"), (OLDER, "2 .*: a.weight, b.weight")])
def test_made_up_tensors_are_refused_however_quiet_the_library_is(
    library: logging.Logger, text: str, names: str
) -> None:
    level, handlers = library.level, list(library.handlers)
    with pytest.raises(IncompleteCheckpoint, match=names), require_complete_checkpoint():
        library.getChild("modeling_utils").warning(text)
    assert (library.level, library.handlers) == (level, handlers)


def test_a_report_without_missing_tensors_is_fine(library: logging.Logger) -> None:
    with require_complete_checkpoint():
        library.getChild("modeling_utils").warning(REPORT.replace("MISSING", "UNEXPECTED"))


def test_transformers_itself_told_to_be_quiet_does_not_hide_a_missing_tensor(
    library: logging.Logger, tmp_path: Path
) -> None:
    level = library.level
    from transformers import AutoModelForCausalLM

    # The first import of the library sets the level of its logger.
    library.setLevel(level)
    small.write_model(tmp_path / "net")
    weights = tmp_path / "net" / "model.safetensors"
    tensors = load_file(weights)
    del tensors[LACKING]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(IncompleteCheckpoint, match=LACKING), require_complete_checkpoint():
        AutoModelForCausalLM.from_pretrained(tmp_path / "net")
