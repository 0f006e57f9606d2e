"""A job that this machine cannot take is skipped with the reason, before a worker starts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.small_project import Project


def gpu(project: Project, monkeypatch: pytest.MonkeyPatch, *mebibytes: int) -> None:
    """Put a driver's tool in front of PATH that reports GPUs of these sizes."""
    tool = project.root / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    lines = "\n".join(f"echo 'NVIDIA Small, 550.54, {size}'" for size in mebibytes)
    tool.write_text(f"#!/bin/sh\n{lines}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")


def job(project: Project, lines: str, model: str = "hf") -> None:
    """One model on a GPU whose job has these further lines; lm-eval itself evaluates."""
    folder = project.document(device="cuda", models=("one",))
    text = (folder / "one.yaml").read_text().replace("  batch_size: 8\n", f"  batch_size: 8\n{lines}")
    (folder / "one.yaml").write_text(text.replace("model: hf", f"model: {model}"))
    # Whatever torch is installed here, on that machine it is one for CUDA.
    (project.root / "conftest.py").write_text(
        "from scanproof.kernels.launches import machine\nmachine.torch_cuda = lambda: '13.0'\n"
    )


LARGE = "  size: {parameters: 7000000000, vocab_size: 50000}\n"


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_that_does_not_fit_is_skipped_with_the_arithmetic(
    project: Project, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    gpu(project, monkeypatch, 15360)
    job(project, LARGE)
    result = project.run(*(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"errors" if strict else "skipped": 3})
    result.stdout.fnmatch_lines(
        ["*needs 29.9 GB of GPU memory: weights 28 GB (7e9 x 4 bytes) + logits*the GPU has 16.1 GB*"]
    )


def test_a_class_that_runs_on_one_gpu_is_not_spread(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(project, monkeypatch, 22528, 22528)
    job(project, LARGE, model="mamba_ssm")
    result = project.run()
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*the model class mamba_ssm runs on one GPU only*"])


def test_a_gpu_that_cuda_does_not_show_does_not_count(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(project, monkeypatch, 81920, 15360)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    job(project, LARGE)
    result = project.run()
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*the GPU has 16.1 GB*"])


def test_code_of_a_checkpoint_does_not_run_unless_somebody_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(project, monkeypatch, 81920)
    job(project, "  needs_remote_code: true\n")
    result = project.run()
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*org/one cannot be loaded without Python files*write job.trust_remote_code*"])


@pytest.mark.parametrize("strict", [False, True])
def test_a_gpu_that_the_installed_torch_cannot_use_is_the_reason_before_any_other(
    project: Project, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    gpu(project, monkeypatch, 81920)
    job(project, LARGE)
    # A torch for the CPU, in front of any other.
    torch = project.root / "site" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("raise AssertionError('the process of the session does not import torch')")
    (torch / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(torch.parent))
    (project.root / "conftest.py").unlink()
    result = project.run("-rs", *(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"errors" if strict else "skipped": 3})
    result.stdout.fnmatch_lines(
        ["*needs an NVIDIA GPU: there is one, but torch * is built for the CPU; install torch for CUDA: https:*"]
    )
    result.stdout.no_fnmatch_line("*prefetch*")
    run: Any = project.latest_run()
    assert {record["outcome"] for record in run["records"]} == {"ERROR" if strict else "NOT_RUN"}


@pytest.mark.parametrize(("suite", "skipped"), [("gpu", True), ("embedded", False)])
def test_a_stand_in_that_is_gone_is_no_skip(project: Project, suite: str, skipped: bool) -> None:
    """It is a part of the package, so that nothing but a broken installation lacks it."""
    project.document(suite=suite, models=("one",))
    project.answer({"kind": "missing", "message": "the mirror lacks org/one"})
    result = project.run()
    result.assert_outcomes(**{"skipped" if skipped else "errors": 3})
    assert (result.ret == pytest.ExitCode.OK) is skipped
    result.stdout.fnmatch_lines(["*the mirror lacks org/one*"])
