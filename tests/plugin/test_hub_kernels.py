"""`--scanproof-provider OPERATION=hub`: a kernel of Hugging Face's hub, here from a folder that takes its place.

What needs the package `kernels` runs where that is installed; it is none of scanproof's dependencies.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scanproof.kernels import cases

REPOSITORY = "kernels-community/causal-conv1d"
OPERATION = "causal_conv1d_varlen_states"
NUMERICS = Path(__file__).parents[1] / "kernels" / "test_numerics.py"
COUNT = len([case for case in cases.load() if case.op == OPERATION and case.on_cpu])
METADATA = {
    "name": "causal-conv1d", "id": "_causal_conv1d_of_a_test", "version": 1, "license": "BSD-3-Clause",
    "python-depends": [], "backend": {"type": "cpu"},
}  # fmt: skip
FORM = """
import torch

def causal_conv1d_varlen_states(x, cu_seqlens, state_len):
    parts = x.split(cu_seqlens.diff().tolist())
    padded = [torch.nn.functional.pad(part.mT, (state_len, 0)) for part in parts]
    return torch.stack([part[..., part.shape[-1] - state_len:] for part in padded])
"""

needs_kernels = pytest.mark.skipif(find_spec("kernels") is None, reason="needs the package kernels: tox -e hub")


@pytest.fixture
def author(pytester: pytest.Pytester) -> pytest.Pytester:
    shutil.copy(NUMERICS, pytester.path)
    return pytester


@pytest.fixture
def kernel(author: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the hub's repositories have them, with one build, in PyTorch."""
    build = author.path / "kernel" / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (build / "metadata.json").write_text(json.dumps(METADATA))
    (build / "__init__.py").write_text(FORM)
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPOSITORY}={author.path / 'kernel'}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return build


def run(author: pytest.Pytester, *more: str, operation: str = OPERATION) -> pytest.RunResult:
    option = f"--scanproof-provider={operation}=hub"
    return author.runpytest_subprocess(option, "-m", "provider", "-k", operation, "--scanproof-strict", *more)


@needs_kernels
def test_a_folder_takes_the_place_of_a_repository_and_the_session_says_so(
    author: pytest.Pytester, kernel: Path
) -> None:
    result = run(author, "--junitxml=junit.xml")
    result.assert_outcomes(passed=COUNT, deselected=result.parseoutcomes()["deselected"])
    assert result.ret == pytest.ExitCode.OK
    origin = f"the folder {kernel} in place of {REPOSITORY}, version 1"
    result.stdout.fnmatch_lines([
        f"provider {OPERATION}=hub: {COUNT} cases were compared and right; {OPERATION} (*__init__.py:4) of {origin} "
        "was entered * times and launched no kernel that is watched"
    ])  # fmt: skip
    test = ElementTree.parse(author.path / "junit.xml").find(".//testcase")
    assert test is not None
    said = {each.attrib["name"]: each.attrib["value"] for each in test.iter("property")}
    assert said["scanproof provider entered"].endswith(origin)


@needs_kernels
def test_a_wrong_kernel_of_the_hub_fails(author: pytest.Pytester, kernel: Path) -> None:
    (kernel / "__init__.py").write_text(FORM.replace("(state_len, 0)", "(0, state_len)"))
    result = run(author, "-k", f"{OPERATION}-padded-float32")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@needs_kernels
def test_a_kernel_that_cannot_be_loaded_says_why(author: pytest.Pytester, kernel: Path) -> None:
    shutil.rmtree(kernel)
    result = run(author)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{OPERATION}=hub: {REPOSITORY}, version 1 cannot be loaded: FileNotFoundError: *"])
    assert "Traceback" not in result.stderr.str()


@needs_kernels
def test_a_kernel_without_the_function_says_so(author: pytest.Pytester, kernel: Path) -> None:
    (kernel / "__init__.py").write_text("")
    result = run(author)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{REPOSITORY}, version 1 (*__init__.py) has no {OPERATION}*"])


@pytest.mark.skipif(find_spec("kernels") is not None, reason="the package kernels is installed")
def test_without_the_package_a_session_says_what_to_install(author: pytest.Pytester) -> None:
    result = run(author)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{OPERATION}=hub: {REPOSITORY}, version 1 *not installed: pip install kernels*"])


def test_an_operation_without_a_kernel_of_the_hub_is_refused(author: pytest.Pytester) -> None:
    result = run(author, operation="rmsnorm_fn")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*rmsnorm_fn=hub: there is no kernel of the hub for rmsnorm_fn; there are for *"])
