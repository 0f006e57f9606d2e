from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.kernels import doctor
from scanproof.kernels.launches import kernel_table, machine
from scanproof.kernels.launches.machine import KernelPackage, Machine
from tests.support import kernel_packages as packages

WHOLE = Machine(
    gpus=({"name": "NVIDIA H100", "driver_version": "580.65", "memory.total": "81559"},),
    torch="2.9.0",
    torch_cuda="12.8",
    triton="3.5.0",
    packages=tuple(
        KernelPackage(distribution=package.distribution, version="9.0", importable=True)
        for package in kernel_table.PACKAGES
    ),
)


def without(distribution: str, **changes: Any) -> Machine:
    """The complete machine, with changes to one package."""
    changed = [replace(each, **changes) if each.distribution == distribution else each for each in WHOLE.packages]
    return replace(WHOLE, packages=tuple(changed))


def missing(what: Machine) -> dict[str, doctor.DoctorRow]:
    return {row.what: row for row in doctor.missing_rows(doctor.diagnose(what))}


def test_a_machine_with_everything_is_complete() -> None:
    rows = doctor.diagnose(WHOLE)
    assert {row.state for row in rows} == {"ok"}
    assert {row.what for row in rows if row.found == "real"} == {each.name for each in kernel_table.OPERATIONS}


def test_mamba_ssm_built_without_its_flag_lacks_mamba_1_only() -> None:
    found = missing(without("mamba-ssm", no_extension="there is no module selective_scan_cuda", needs_extension=False))
    assert found.keys() == {"mamba-ssm", "selective_scan_fn", "mamba_inner_fn"}
    advice = found["mamba-ssm"].advice
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-cache-dir 'mamba-ssm>=2.2.2'" in advice
    assert "--force-reinstall --no-deps" in advice, "pip would leave what is installed as it is"
    assert "warns once" in found["selective_scan_fn"].advice


def test_an_older_mamba_ssm_loses_its_triton_kernels_with_the_extension() -> None:
    found = missing(without("mamba-ssm", no_extension="there is no module selective_scan_cuda", needs_extension=True))
    assert found["mamba_chunk_scan_combined"].found == "mamba-ssm needs selective_scan_cuda"
    assert "causal_conv1d_fn" not in found


def test_an_extension_of_another_torch_says_so() -> None:
    found = missing(without("causal-conv1d", no_extension="causal_conv1d_cuda.so: undefined symbol: _ZN3c104cuda9"))
    assert "built for another torch or CUDA" in found["causal-conv1d"].advice
    assert found["causal-conv1d"].advice.endswith(" --force-reinstall --no-deps")
    assert found["mamba_split_conv1d_scan_combined"].found == "no causal_conv1d_cuda"
    assert "mamba_chunk_scan_combined" not in found


@pytest.mark.parametrize(
    ("change", "what", "said"),
    [
        ({"no_gpu": "needs an NVIDIA GPU: no driver", "gpus": ()}, "GPU", "no driver"),
        ({"torch_cuda": None}, "torch", "built for the CPU"),
        ({"torch": None, "torch_cuda": None}, "torch", "not installed"),
        ({"triton": None}, "triton", "not installed"),
        ({"triton": "3.4.0"}, "triton", "3.4.0 is older than 3.5"),
    ],
)
def test_what_the_machine_lacks_is_named_and_its_operations_are_not_real(
    change: dict[str, Any], what: str, said: str
) -> None:
    found = missing(replace(WHOLE, **change))
    assert said in found[what].found
    assert found[what].advice
    assert "rms_norm_fn" in found
    assert ("causal_conv1d_fn" in found) == (what != "triton")


def test_a_package_that_is_not_installed_is_installed_with_what_it_needs() -> None:
    advice = missing(without("causal-conv1d", importable=False, version=None))["causal-conv1d"].advice
    assert advice.startswith("pip install 'scanproof[gpu]' && CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install ")
    assert "--force-reinstall" not in advice
    assert "--no-deps" not in advice, "its own dependencies are not there either"


@pytest.mark.parametrize(
    ("version", "old"), [("1.3.9", True), ("1.4", False), ("1.4.0.post1", False), ("1.10.0", False), ("0.9", True)]
)
def test_a_package_that_is_too_old_is_missing(version: str, old: bool) -> None:
    found = missing(without("causal-conv1d", version=version))
    assert ("causal-conv1d" in found) == old
    if old:
        assert found["causal-conv1d"].found == f"{version}, commit not known; older than 1.4.0"
        assert "'causal-conv1d>=1.4.0'" in found["causal-conv1d"].advice


def test_what_a_build_needs_is_told_where_something_has_to_be_built() -> None:
    bare = without("flash-attn", importable=False, version=None)
    tools = [
        row for row in doctor.diagnose(replace(bare, not_to_build=("ninja", "wheel"))) if row.what == "build tools"
    ]
    assert [row.state for row in tools] == ["warning"]
    assert tools[0].found.endswith("ninja, wheel")
    assert tools[0].advice == "pip install 'scanproof[gpu]'"
    assert {row.state for row in doctor.diagnose(replace(WHOLE, not_to_build=("ninja", "wheel")))} == {"ok"}


@pytest.mark.parametrize(
    ("nvcc", "version", "state"),
    [
        (None, None, "warning"),
        ("/usr/bin/nvcc", "11.8", "warning"),
        ("/usr/bin/nvcc", "12.4", "ok"),
        ("/usr/bin/nvcc", None, "ok"),
    ],
)
def test_a_compiler_of_torchs_cuda_is_asked_for_where_something_has_to_be_built(
    nvcc: str | None, version: str | None, state: str
) -> None:
    bare = replace(without("flash-attn", importable=False, version=None), nvcc=nvcc, nvcc_cuda=version)
    [row] = [row for row in doctor.diagnose(bare) if row.what == "CUDA"]
    assert row.state == state
    assert ("install CUDA's compiler 12.8" in row.advice) == (state == "warning")
    [row] = [row for row in doctor.diagnose(replace(WHOLE, nvcc=nvcc, nvcc_cuda=version)) if row.what == "CUDA"]
    assert row.state == "ok", "nothing has to be built"


def test_the_compiler_is_found_where_torch_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, release in (("first", "12.8"), ("home", "13.0")):
        nvcc = tmp_path / name / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.88\n")
        nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "first" / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert machine.find_nvcc() == str(tmp_path / "first" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert machine.find_nvcc() == str(tmp_path / "home" / "bin" / "nvcc")
    assert machine.nvcc_cuda(str(tmp_path / "home" / "bin" / "nvcc")) == "13.0"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert machine.find_nvcc() is None
    assert machine.nvcc_cuda("/bin/true") is None


@pytest.mark.parametrize("version", ["3.5.0", "3.10.1", "4.0.0+git1"])
def test_newer_tritons_will_do(version: str) -> None:
    assert not missing(replace(WHOLE, triton=version))


def test_traps_are_warnings() -> None:
    copy = without("mamba-ssm", shadowed="/home/me/mamba/mamba_ssm/__init__.py")
    warned = {row.what: row for row in doctor.diagnose(replace(copy, hub_kernels="0.18.2")) if row.state == "warning"}
    assert warned.keys() == {"working copy", "hub kernels"}
    assert "/home/me/mamba" in warned["working copy"].found
    assert "USE_HUB_KERNELS=NO" in warned["hub kernels"].advice
    assert not missing(replace(copy, hub_kernels="0.18.2"))
    no_gpu = replace(WHOLE, no_gpu="needs an NVIDIA GPU: none", gpus=())
    assert "mamba_ssm on the CPU" in {row.what for row in doctor.diagnose(no_gpu)}


def test_extensions_are_loaded_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_cuda.py").write_text("")
    (tmp_path / "other_torch_cuda.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    (tmp_path / "crashing_cuda.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "failing_cuda.py").write_text("raise RuntimeError('no device')")
    (tmp_path / "loud_cuda.py").write_text("import atexit; print('{'); atexit.register(lambda: print('bye'))")
    loaded = machine.load_extensions(["good_cuda", "other_torch_cuda", "failing_cuda", "loud_cuda"])
    assert loaded == {
        "good_cuda": None,
        "other_torch_cuda": "undefined symbol: _ZN3c10",
        "failing_cuda": "RuntimeError: no device",
        "loud_cuda": None,
    }
    crashed = machine.load_extensions(["good_cuda", "crashing_cuda"])
    assert all(reason is not None and "exit code -6" in reason for reason in crashed.values())
    (tmp_path / "hanging_cuda.py").write_text("import time; time.sleep(3600)")
    hung = machine.load_extensions(["hanging_cuda"], seconds=0.05)
    assert hung == {"hanging_cuda": "loading it took more than 0.05 s"}


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("import selective_scan_cuda\n", True),
        ("try:\n    import selective_scan_cuda\nexcept ImportError:\n    selective_scan_cuda = None\n", False),
        ("if True:\n    pass\nelse:\n    import selective_scan_cuda as scan\n", True),
        ("def late():\n    import selective_scan_cuda\n", False),
        ("# import selective_scan_cuda\n", False),
    ],
)
def test_whether_a_package_can_be_imported_without_its_extension(tmp_path: Path, text: str, needed: bool) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "scan.py").write_text(text)
    assert machine.needs_extension(tmp_path, "selective_scan_cuda") is needed


def doctor_command(*arguments: str, path: str = "", site: str = "") -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": path + os.environ["PATH"]}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "scanproof", "doctor", *arguments],
        env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_reports_this_machine_as_it_is_installed(tmp_path: Path) -> None:
    """With a stand-in for the driver, and a mamba-ssm installed from a commit."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho NVIDIA H100, 580.65.06, 81559\n")
    smi.chmod(0o755)
    site = packages.install(tmp_path / "site")
    (site / "mamba_ssm").mkdir()
    (site / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda\n")
    commit = {"url": "https://example.org/mamba", "vcs_info": {"vcs": "git", "commit_id": "e9594ce" + "0" * 33}}
    (site / "mamba_ssm-9.0.dist-info" / "direct_url.json").write_text(json.dumps(commit))
    done = doctor_command("--format", "json", path=f"{smi.parent}{os.pathsep}", site=str(site))
    assert done.returncode == 1, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert (rows["GPU"]["found"], rows["driver"]["found"]) == ("NVIDIA H100, 81559 MiB", "580.65.06")
    assert "e9594ce" in rows["mamba-ssm"]["found"]
    assert rows["mamba-ssm"]["state"] == "ok", "its extension loads"
    assert rows["working copy"]["state"] == "warning", "the installer did not list mamba_ssm/__init__.py"
    assert rows["flash-attn"]["found"] == "not installed"
    assert "flash_attn_func" in done.stderr


def test_files_that_are_broken_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = ")
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("def (\nimport selective_scan_cuda\n")
    info = tmp_path / "mamba_ssm-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mamba-ssm\nVersion: 9\n")
    (info / "direct_url.json").write_text("{")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '\\377\\376\\n'\n")
    smi.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "scanproof", "doctor", "--format", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert "reports no usable GPU" in rows["GPU"]["found"]
    assert "built for the CPU" in rows["torch"]["found"]
    assert rows["mamba-ssm"]["found"].startswith("9, commit not known")


def test_operations_are_listed_by_providers() -> None:
    """Of each operation's own package, and of the others': whether it is here, and how many cases it can run."""
    from scanproof.kernels.providers import by_operation

    listed = {row["operation"]: row for row in by_operation.list_providers(without("causal-conv1d", importable=False))}
    assert list(listed) == [operation.name for operation in kernel_table.OPERATIONS]
    assert listed["selective_scan_fn"]["kernels"] == "mamba-ssm ok"
    assert listed["causal_conv1d_fn"]["kernels"] == "causal-conv1d missing: no causal-conv1d"
    assert listed["mamba_inner_fn"]["kernels"] == "mamba-ssm missing: no causal-conv1d"
    assert listed["flash_attn_func"]["transformers.mamba"] == "cannot"
    assert listed["mamba_inner_fn"]["fla"] == "cannot"
    assert listed["rmsnorm_fn"]["fla"] == "missing: no fla-core" or listed["rmsnorm_fn"]["fla"].startswith("ok, ")
    assert re.fullmatch(r"ok, \d+ of \d+ cases", listed["causal_conv1d_fn"]["transformers.mamba"])


def test_a_provider_that_is_not_installed_is_missing() -> None:
    from scanproof.kernels.providers import by_operation
    from scanproof.kernels.providers.provider import Provider

    absent = Provider(operation="rmsnorm_fn", function="nopkg:norm", distribution="no-such-package")
    assert by_operation.describe(absent, []) == "missing: no no-such-package"


def test_of_kernels_that_need_the_interpreter_a_cpu_runs_the_few_cases_that_are_named() -> None:
    from scanproof.kernels import cases
    from scanproof.kernels.providers import by_operation
    from scanproof.kernels.providers.provider import Provider

    mine = [case for case in cases.load() if case.op == "rmsnorm_fn" and case.on_cpu]
    everywhere = Provider(operation="rmsnorm_fn", function="pytest:fail", distribution="pytest")
    interpreted = replace(everywhere, places=("interpreter", "gpu"), interpreted=("no_gate-float32",))
    assert by_operation.describe(everywhere, mine) == f"ok, {len(mine)} of {len(mine)} cases"
    assert by_operation.describe(interpreted, mine) == f"ok, 1 of {len(mine)} cases"
    gated = replace(interpreted, cannot={"it has no gate": lambda case: "z" not in case.given})
    assert by_operation.describe(gated, mine) == f"ok, 0 of {len(mine)} cases"


def test_an_operation_is_of_the_package_that_the_table_of_operations_names() -> None:
    from scanproof.kernels import operation_table

    packages_of = {operation.name: operation.distribution for operation in kernel_table.OPERATIONS}
    assert packages_of == {op.name: op.package for op in operation_table.OPS}
