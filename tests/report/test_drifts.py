"""The drifts on a page: those of its own GPU, if its night is the newest there."""

from __future__ import annotations

from pathlib import Path

from scanproof.history.publish import publish
from scanproof.numbers.expected.reader import load
from scanproof.record import read_run
from scanproof.report.gather import Reporter
from tests.support.small_history import ENVIRONMENT, filled, make_run, rows

ROOT = Path(__file__).parents[2]


def test_a_page_has_the_drifts_of_its_own_gpu(tmp_path: Path) -> None:
    history = filled(tmp_path)
    other = {**ENVIRONMENT, "gpus": [{"name": "Another GPU", "driver_version": "1"}]}
    for night in range(14):
        drifting = make_run(
            tmp_path / "store",
            f"202601{night + 1:02}T010000Z-{night:08}",
            {"piqa": rows(2000, 1500 - 200 * (night > 7))},
        )
        steady = make_run(tmp_path / "other", f"202601{night + 1:02}T020000Z-{night:08}", environment=other)
        publish(drifting, history.place)
        publish(steady, history.place)

    def drifts_of(path: Path) -> tuple[str, ...]:
        run = read_run(path)
        return Reporter(run, path.parent, tmp_path, load(ROOT / "expected"), history.place.name).find_drifts()

    (sentence,) = drifts_of(drifting)
    assert "changed on 2026-01-09" in sentence
    assert drifts_of(steady) == ()
    assert drifts_of(drifting.parents[1] / "20260101T010000Z-00000000" / "run.json") == (), "it is not the newest"
