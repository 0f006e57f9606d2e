"""The real worker proves which kernels ran.  Each test starts one or two workers with torch and lm-eval."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from scanproof import files
from scanproof.errors import EvaluationError, last_lines
from scanproof.evaluation import kernels_ran, store
from scanproof.evaluation.evaluate_job import evaluate, last_launches
from scanproof.files import to_json
from scanproof.kernels.launches.launched import AutotunerChoice, Launches
from tests.support import kernel_packages as packages
from tests.support import small_mirror as small

INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-cache-dir 'mamba-ssm>=2.2.2'"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return small.build(tmp_path / "mirror")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that the worker can import."""
    folder = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    return folder


def test_an_entry_point_that_was_called_proves_the_kernel_and_is_stored(
    mirror: Path, site: Path, tmp_path: Path
) -> None:
    packages.install(site)
    packages.checkpoint(mirror, packages.INSTALLED)
    measured = evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert measured.kernels is not None
    [launch] = measured.kernels.launched
    assert (launch.name, launch.how) == ("selective_scan_cuda.fwd", "extension")
    assert launch.count == small.QUESTIONS, "4 answers of 12 questions, 4 at a time"
    assert (launch.file, launch.distribution) == (str(site / "selective_scan_cuda.py"), "mamba-ssm")
    again = evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert again.reused
    assert again.kernels == measured.kernels, "the stored evaluation holds the proof"
    kernels_ran.require_kernels(packages.JOB, again)


def test_a_silent_fallback_is_an_error_that_names_kernel_and_install_flag_and_is_not_stored(
    mirror: Path, site: Path, tmp_path: Path
) -> None:
    packages.install(site)
    packages.checkpoint(mirror, packages.FALLBACK)
    with pytest.raises(EvaluationError, match="selective_scan_fwd_kernel of mamba-ssm: not launched") as raised:
        evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert raised.value.kind == "fallback"
    assert "selective_scan_cuda.fwd was not called" in raised.value.message
    assert INSTALL in raised.value.message
    assert raised.value.log is not None
    kept = Path(raised.value.log).parent
    assert json.loads((kept / "out" / "kernels.json").read_bytes())["launched"] == []
    assert last_lines(Path(raised.value.log))
    assert not list((tmp_path / "store").glob("??/*/results.json"))


def test_a_package_that_is_not_installed_is_named_with_the_reason(mirror: Path, site: Path, tmp_path: Path) -> None:
    packages.checkpoint(mirror, packages.FALLBACK)
    with pytest.raises(EvaluationError, match="selective_scan_cuda cannot be imported") as raised:
        evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert "No module named 'selective_scan_cuda'" in raised.value.message
    assert INSTALL in raised.value.message


def test_an_extension_that_no_distribution_installed_comes_from_elsewhere(
    mirror: Path, site: Path, tmp_path: Path
) -> None:
    packages.install(site, listed=False)
    packages.checkpoint(mirror, packages.INSTALLED)
    with pytest.raises(EvaluationError, match="it came from elsewhere") as raised:
        evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert str(site / "selective_scan_cuda.py") in raised.value.message
    assert raised.value.kind == "fallback"


def test_a_job_that_breaks_says_which_extension_it_lacks(mirror: Path, site: Path, tmp_path: Path) -> None:
    packages.checkpoint(mirror, packages.INSTALLED)
    with pytest.raises(EvaluationError, match="No module named 'selective_scan_cuda'") as raised:
        evaluate(packages.JOB, small.settings(tmp_path, mirror), progress=small.ignore)
    assert raised.value.kind != "fallback"
    assert "selective_scan_cuda, which the job needs, cannot be imported (No module named" in raised.value.message
    assert INSTALL in raised.value.message


def test_the_launches_of_the_last_evaluation_of_a_job_are_found_again(tmp_path: Path) -> None:
    assert last_launches(tmp_path, "001-mamba-130m-0shot") is None
    before = Launches(choices=(AutotunerChoice(kernel="_chunk_scan_fwd_kernel", key=("64",), config={"num_warps": 4}),))
    key = "ab12" * 16
    entry = store.folder_of(tmp_path, key)
    files.write_atomically(entry / "kernels.json", to_json(before))
    latest = hashlib.sha256(b"001-mamba-130m-0shot").hexdigest()[:16]
    files.write_atomically(tmp_path / "latest" / f"{latest}.json", files.to_sorted_json({"key": key, "parts": {}}))
    assert last_launches(tmp_path, "001-mamba-130m-0shot") == before
    assert last_launches(tmp_path, "001-mamba-370m-0shot") is None
    (entry / "kernels.json").unlink()
    assert last_launches(tmp_path, "001-mamba-130m-0shot") is None
