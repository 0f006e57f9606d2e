"""The models of true size of `benchmarks/scoring.py --device cuda`, and when their answers are wrong."""

from __future__ import annotations

import pytest

from tests.support.gpu_scripts import ROOT


class TestTrueSizes:
    @pytest.fixture(autouse=True)
    def benchmarks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def test_they_have_as_many_weights_as_the_published_models(self) -> None:
        import math

        import scoring_sizes
        import torch

        from scanproof.evaluation.planning import job_rows
        from scanproof.models.language_model import StateSpacesLM
        from scanproof.models.megatron import conversion
        from scanproof.numbers.expected import reader

        jobs = [job for job, _ in job_rows.jobs(reader.load(ROOT / "expected").values)]
        for row in scoring_sizes.SIZES:
            if row.d_model:
                with torch.device("meta"):
                    model = StateSpacesLM(scoring_sizes.config_of(row, small=False))
                count = sum(weight.numel() for weight in model.parameters())
            else:
                built = scoring_sizes.architecture(small=False)
                network = conversion.make_blank(conversion.make_nemotron_config(built, 256_000))
                count = sum(map(math.prod, conversion.expected_shapes(built, network).values()))
            job = scoring_sizes.job_of(row, jobs, "cuda")
            assert job.size is not None
            assert count == job.size.parameters, row.name
            assert job.device == "cuda"

    @pytest.mark.parametrize(("moved", "wrong"), [(0.0, False), (0.1, False), (1.0, True), (float("nan"), True)])
    def test_in_halves_an_answer_may_be_apart_by_what_rounding_allows(self, moved: float, wrong: bool) -> None:
        """Four tokens in bfloat16: half a nat, and 0.0078 of 10."""
        from scoring_engines import ENGINES, Pass, Work
        from scoring_table import Row

        def row(value: float) -> Row:
            answers = ((-10.0, True), (value, True))
            return Row("piqa", ENGINES[-1], 16, Work(2, 8, 8, (0.5, 0.5), 2**-7), [Pass(1, 1, 1, 1, 0, answers)])

        assert row(-10.0 + moved).wrong(row(-10.0)) is wrong
