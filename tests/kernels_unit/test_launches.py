"""Watching launches on a machine without kernels: extensions are stand-ins; tests/kernels watches Triton."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import kernel_packages as packages
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels.launches import origin, profiler, watcher
else:
    origin = Late("scanproof.kernels.launches.origin")
    watcher, profiler = Late("scanproof.kernels.launches.watcher"), Late("scanproof.kernels.launches.profiler")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the module path; modules imported from it are removed after the test."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "selective_scan_cuda", raising=False)
    return folder


def test_calls_through_the_extension_are_counted_and_its_functions_put_back(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.install(site)
    with watcher.observe() as observer:
        extension = sys.modules["selective_scan_cuda"]
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)
        assert [extension.fwd(number) for number in range(3)] == [0, 1, 2]
    extension.fwd(3)
    [launch] = observer.launches().launched
    assert (launch.name, launch.count) == ("selective_scan_cuda.fwd", 3)
    assert (launch.distribution, launch.module) == ("mamba-ssm", "selective_scan_cuda")


def test_a_call_that_raises_launched_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.install(site)
    with watcher.observe() as observer:
        extension = sys.modules["selective_scan_cuda"]
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)
        with pytest.raises(TypeError):
            extension.fwd()
    assert observer.launches().launched == ()


def test_an_extension_that_cannot_be_imported_says_why(site: Path) -> None:
    site.mkdir()
    (site / "selective_scan_cuda.py").write_text("raise ImportError('undefined symbol: _ZN3c104cuda')")
    with watcher.observe() as observer:
        pass
    unavailable = observer.launches().unavailable
    assert unavailable["selective_scan_cuda"] == "undefined symbol: _ZN3c104cuda"
    assert unavailable["flash_attn_2_cuda"] == "No module named 'flash_attn_2_cuda'"


class TestOrigin:
    def test_a_file_that_the_installer_listed_belongs_to_the_distribution(self, site: Path) -> None:
        packages.install(site)
        assert origin.distribution_of(str(site / "selective_scan_cuda.py")) == "mamba-ssm"

    def test_a_file_beside_it_does_not(self, site: Path) -> None:
        packages.install(site)
        (site / "other").mkdir()
        (site / "other" / "selective_scan_cuda.py").write_text("")
        assert origin.distribution_of(str(site / "other" / "selective_scan_cuda.py")) is None
        assert origin.module_of(str(site / "other" / "selective_scan_cuda.py")) is None

    def test_an_editable_installation_holds_its_source_folder(self, site: Path, tmp_path: Path) -> None:
        packages.install(site)
        clone = tmp_path / "a clone"
        direct = {"url": clone.as_uri(), "dir_info": {"editable": True}}
        (site / "mamba_ssm-9.0.dist-info" / "direct_url.json").write_text(json.dumps(direct))
        assert origin.distribution_of(str(clone / "mamba_ssm" / "ops" / "scan.py")) == "mamba-ssm"
        assert origin.distribution_of(str(tmp_path / "elsewhere" / "scan.py")) is None

    def test_an_installer_that_kept_no_list_owns_its_modules_beside_the_metadata(self, site: Path) -> None:
        packages.install(site)
        (site / "mamba_ssm-9.0.dist-info" / "RECORD").unlink()
        importlib.invalidate_caches()
        assert origin.distribution_of(str(site / "mamba_ssm" / "ops" / "scan.py")) == "mamba-ssm"
        assert origin.distribution_of(str(site / "other.py")) is None

    def test_a_working_copy_on_the_module_path_is_found_by_its_module(self, site: Path) -> None:
        (site / "mamba_ssm" / "ops").mkdir(parents=True)
        (site / "mamba_ssm" / "__init__.py").write_text("")
        kernel = site / "mamba_ssm" / "ops" / "scan.py"
        kernel.write_text("")
        assert origin.module_of(str(kernel)) == "mamba_ssm"
        assert origin.distribution_of(str(kernel)) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void selective_scan_fwd_kernel<Selective_Scan_fwd_kernel_traits<128, 16, 1, true, c10::Half, float>>"
         "(SSMParamsBase)", "selective_scan_fwd_kernel"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, cutlass::half_t, "
         "Flash_kernel_traits<64, 128, 128, 4, cutlass::half_t> >, false, true>(flash::Flash_fwd_params)",
         "flash::flash_fwd_kernel"),
        ("void pytorch_flash::flash_fwd_kernel<T<64>, true>(pytorch_flash::Flash_fwd_params)",
         "pytorch_flash::flash_fwd_kernel"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<at::native::(anonymous namespace)::O<2>, 4>(int)",
         "at::native::CatArrayBatchedCopy"),
        ("_chunk_scan_fwd_kernel", "_chunk_scan_fwd_kernel"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_"
         "tilesize128x128x64"),
    ],
)  # fmt: skip
def test_names_of_the_profiler_lose_types_and_arguments(name: str, short: str) -> None:
    assert profiler.shorten_name(name) == short


def test_copies_are_no_kernels() -> None:
    names = ["Memcpy HtoD (Pageable -> Device)", "Memset (Device)", "void k<1>(int)", "void k<2>(int)"]
    assert dict(profiler.count_kernels(names)) == {"k": 2}


def test_without_a_gpu_the_profiler_is_left_alone() -> None:
    observer = watcher.Observer()
    profile = profiler.FirstBatch(observer)
    profile.start()
    profile.stop()
    assert observer.launches().launched == ()


class Profile:
    """Stands in for PyTorch's profiler on a GPU: warns and fails as the test says, and reports one kernel."""

    def __init__(self, warns: str = "", fails: str = "") -> None:
        self.warns, self.fails = warns, fails

    def __call__(self, **kwargs: object) -> Profile:
        return self

    def do(self, name: str) -> None:
        if name == self.warns:
            # torch.profiler attributes its warnings to itself.
            exec(compile("import warnings; warnings.warn('Profiler clears events')", "profiler.py", "exec"), IN_TORCH)
        if name == self.fails:
            raise ValueError(f"no {name}")

    def start(self) -> None:
        self.do("start")

    def stop(self) -> None:
        self.do("stop")

    def events(self) -> list[Any]:
        return [SimpleNamespace(name="void k<1>(int)", device_type=SimpleNamespace(name="CUDA"))]


IN_TORCH = {"__name__": "torch.profiler.profiler"}


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    return monkeypatch


@pytest.mark.parametrize("when", ["start", "stop"])
def test_what_the_profiler_warns_of_keeps_nothing_from_being_profiled(
    on_a_gpu: pytest.MonkeyPatch, when: str, recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("error")
    on_a_gpu.setattr("torch.profiler.profile", Profile(warns=when))
    observer = watcher.Observer()
    profile = profiler.FirstBatch(observer)
    profile.start()
    profile.stop()
    seen = observer.launches()
    assert ([launch.name for launch in seen.launched], seen.unprofiled) == (["k"], None)
    assert [str(each.message) for each in recwarn] == ["Profiler clears events"]


@pytest.mark.parametrize("when", ["start", "stop"])
def test_a_profiler_that_fails_leaves_its_reason_and_is_no_error_of_the_work(
    on_a_gpu: pytest.MonkeyPatch, when: str
) -> None:
    on_a_gpu.setattr("torch.profiler.profile", Profile(fails=when))
    observer = watcher.Observer()
    profile = profiler.FirstBatch(observer)
    profile.start()
    profile.stop()
    seen = observer.launches()
    assert (seen.launched, seen.unprofiled) == ((), f"ValueError: no {when}")
