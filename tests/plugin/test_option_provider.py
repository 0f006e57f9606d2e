"""--scanproof-provider: the cases of an operation on a function that is named, with the same rules of evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scanproof.kernels import cases
from tests.support.small_project import Project

CASES = [case for case in cases.load() if case.op == "rmsnorm_fn"]
ON_CPU = [case for case in CASES if "cpu" in case.places]
NUMERICS = Path(__file__).parents[1] / "kernels" / "test_numerics.py"
NORM = """
import functools
import sys
import torch
from scanproof.kernels.known import KnownDefect
from scanproof.kernels.providers.provider import Provider
from scanproof.kernels.references import norms

def norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
    dtype, x = x.dtype, x.float()
    gate = 1 if z is None else torch.nn.functional.silu(z.float())
    if not norm_before_gate:
        x, gate = x * gate, 1
    grouped = x.unflatten(-1, (-1, group_size or x.shape[-1]))
    grouped = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    normed = grouped.flatten(-2) * weight.float() + (0 if bias is None else bias.float())
    return (normed * gate).to(dtype)

def wrong(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
    return 1.1 * norm(x, weight, bias, z, eps, group_size, norm_before_gate)

def of_scanproof(**given):
    return norms.rmsnorm_fn(**given)[0]

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, rest):
        ctx.save_for_backward(x, weight)
        ctx.rest = rest
        return norm(x, weight, **rest)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in ctx.saved_tensors]
            return *torch.autograd.grad(norms.rmsnorm_fn(*leaves, **ctx.rest)[0], leaves, grad), None

def backward_of_scanproof(x, weight, **rest):
    return Backward.apply(x, weight, rest)

def unwatched(**given):
    sys.setprofile(None)
    return norms.rmsnorm_fn(**given)[0]

CALLS = []

def another_time(**given):
    CALLS.append(1)
    return (1 if len(CALLS) == 1 else 2) * norm(**given)

@functools.cache
def of_shape(shape): return []

def cached(**given):
    kept = of_shape(given["x"].shape)
    y = norm(**given)
    kept.append(y.detach().clone())
    return y + (kept[0] - y).detach()

def without_nan(x, **given):
    return norm(torch.nan_to_num(x), **given)

def leaves_autocast(**given):
    torch.set_autocast_enabled("cpu", True)
    return norm(**given)

class Leaving(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        torch.set_float32_matmul_precision("medium")
        return grad

def leaves_precision_in_backward(**given):
    return Leaving.apply(norm(**given))

KEPT = {}

class Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        kept = KEPT.setdefault((y.shape, y.dtype), torch.zeros_like(y))
        return kept.data.copy_(y).detach()

    @staticmethod
    def backward(ctx, grad):
        return grad

def kept_buffer(**given):
    return Kept.apply(norm(**given))

def kept_and_unrepeatable(**given):
    CALLS.append(1)
    # The last bit of a float32, or a little more.
    return Kept.apply(norm(**given) * (1 + len(CALLS) * 2**-23))

def off(**given):
    return norm(**given) * (1 + 2**-10)

def few(x, weight): return x
def other_names(a, b, bias, **options): return norm(a, b, bias, **options)
NOT_CALLED = 1
ROW = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:other_names", name="ours", renames={"x": "a", "weight": "b"},
    cannot={"it has no gate": lambda case: "z" in case.given},
)
NEVER = Provider(operation="rmsnorm_fn", function="mypkg.ops:norm", name="ours", adapt=lambda norm: of_scanproof)
UNBOUND = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:norm",
    known={"no_gate-float32": KnownDefect("anything may be wrong", {}, {}, wraps=True)},
)
BUILTIN = Provider(operation="rmsnorm_fn", function="math:sqrt", name="ours", adapt=lambda sqrt: norm)
BY_OTHERS = Provider(
    operation="rmsnorm_fn", function="torch.nn.functional:silu", name="ours", adapt=lambda silu: norm,
)

def decorated(function):
    def call(*values, **named): return function(*values, **named)
    return call

same_code, other = decorated(few), decorated(norm)
CLOSURE = Provider(operation="rmsnorm_fn", function="mypkg.ops:same_code", name="ours", adapt=lambda same: other)

def in_thread(**given):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: norms.rmsnorm_fn(**given)[0]).result()

class Kernel:  # as Triton's
    def __call__(self, **given): raise RuntimeError("a kernel is called with its grid")
    def __getitem__(self, grid): return lambda **given: self.run(grid=grid, warmup=False, **given)
    def run(self, *, grid, warmup, **given): pass

kernel = Kernel()
EMPTY = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:kernel", name="ours",
    adapt=lambda kernel: lambda **given: (kernel[(0,)](**given), norm(**given))[1],
)
LAUNCHED = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:kernel", name="ours",
    adapt=lambda kernel: lambda **given: (kernel[1,](**given), norm(**given))[1],
)
SIZED = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:kernel", name="ours",
    adapt=lambda kernel: lambda **given: (kernel[(given["x"].shape[0],)](**given), norm(**given))[1],
)

UNKNOWN = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:norm", known={"no_such-float32": KnownDefect("x", {"out": 1.0}, {})},
)
NO_BOUND = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:norm", known={"no_gate-float32": KnownDefect("x", {}, {"out": 0.5})},
)
AROUND = Provider(
    operation="rmsnorm_fn", function="mypkg.ops:few", name="ours", adapt=lambda few: norm,
)
"""


@pytest.fixture
def author(pytester: pytest.Pytester, sessions_with_torch: None) -> pytest.Pytester:
    """A kernel's own repository, with a copy of the test of numerics."""
    shutil.copy(NUMERICS, pytester.path)
    package = pytester.mkpydir("mypkg")
    (package / "ops.py").write_text(NORM)
    return pytester


def run(author: pytest.Pytester, name: str, *more: str) -> pytest.RunResult:
    return author.runpytest_subprocess(f"--scanproof-provider=rmsnorm_fn=mypkg.ops:{name}", "-m", "provider", *more)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_right_function_passes_every_case_that_fits_on_a_cpu(
    author: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result = run(author, "norm", "-k", "rmsnorm_fn", "--scanproof-strict", "--junitxml=junit.xml", *workers)
    count = result.parseoutcomes()["passed"]
    result.assert_outcomes(passed=count, deselected=result.parseoutcomes().get("deselected", 0))
    assert (count, result.ret) == (len(ON_CPU), pytest.ExitCode.OK)
    # Twice for the same bits and once for the comparison.  Where there is something to compare, once with other values,
    # and once for each argument in which a NaN has to show.
    some = [case for case in ON_CPU if case.sizes["b"] > 0]
    others = sum(1 + 2 + ("z" in case.given) + bool(case.axes.get("bias")) for case in some)
    result.stdout.fnmatch_lines([
        f"provider rmsnorm_fn=mypkg.ops:norm: {count} cases were compared and right; norm (*/mypkg/ops.py:9) was "
        f"entered {3 * count + others} times and launched no kernel that is watched"
    ])  # fmt: skip
    test = ElementTree.parse(author.path / "junit.xml").find(".//testcase")
    assert test is not None
    said = {each.attrib["name"]: each.attrib["value"] for each in test.iter("property")}
    assert said["scanproof provider"] == "mypkg.ops:norm"
    assert said["scanproof provider entered"].endswith("mypkg/ops.py:9)")
    assert str(test.attrib["name"]).endswith("-cpu-mypkg.ops:norm]")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong", "*rmsnorm_fn-no_gate-float32*"),
        ("of_scanproof", "*mypkg.ops:of_scanproof computed with scanproof's own reference (*norms.rmsnorm_fn*"),
        ("backward_of_scanproof", "*computed with scanproof's own reference (*norms.rmsnorm_fn*"),
        ("unwatched", "*mypkg.ops:unwatched set another function with sys.setprofile: it was not watched"),
        ("in_thread", "*mypkg.ops:in_thread computed with scanproof's own reference (*norms.rmsnorm_fn*"),
        *((name, "*ours was never entered: nothing is known of it") for name in ("BUILTIN", "BY_OTHERS", "CLOSURE")),
        ("another_time", "*rmsnorm_fn-no_gate-float32: two identical calls gave different bits of out"),
        (
            "without_nan",
            "*: a NaN in x is hidden in * numbers of out that depend on it: out[[]*[]] is *",
        ),
        ("cached", "*with other values in the same tensors*"),
        (
            "leaves_autocast",
            "*-no_gate-float32: after the call, autocast on cpu is True, and was False: it has to put*",
        ),
        (
            "leaves_precision_in_backward",
            "*: after its backward pass, torch.set_float32_matmul_precision is medium, and was highest; *",
        ),
        ("kept_buffer", "*rmsnorm_fn-no_gate-float32: the second call overwrote out of the first"),
        ("kept_and_unrepeatable", "*rmsnorm_fn-no_gate-float32: two identical calls gave different bits of out"),
        ("NEVER", "*ours was never entered: nothing is known of it"),
        ("AROUND", "*ours was never entered: nothing is known of it"),
        ("EMPTY", "*ours was never entered: nothing is known of it"),
    ],
)
def test_what_is_wrong_or_proves_nothing_fails(author: pytest.Pytester, name: str, why: str) -> None:
    result = run(author, name, "-k", "no_gate-float32", "--scanproof-strict")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([why])


@pytest.mark.parametrize("switched", ["torch.autocast('cpu', torch.bfloat16)", "torch.inference_mode()"])
def test_settings_of_a_fixture_of_the_session_change_nothing(author: pytest.Pytester, switched: str) -> None:
    author.makeconftest(f"""
        import pytest, torch

        @pytest.fixture(autouse=True)
        def switched():
            with {switched}:
                yield
    """)
    for name, expected in (("norm", pytest.ExitCode.OK), ("off", pytest.ExitCode.TESTS_FAILED)):
        assert run(author, name, "-k", "no_gate-float32", "--scanproof-strict").ret == expected


def test_a_row_of_its_own_renames_arguments_and_says_what_it_cannot_do(author: pytest.Pytester) -> None:
    result = run(author, "ROW", "-rs", "-k", "ours", "--scanproof-strict")
    outcomes = result.parseoutcomes()
    gated = sum("z" in case.given for case in ON_CPU)
    assert (outcomes["passed"], outcomes["skipped"], result.ret) == (len(ON_CPU) - gated, gated, pytest.ExitCode.OK)
    result.stdout.fnmatch_lines([
        f"provider rmsnorm_fn=mypkg.ops:ROW: {len(ON_CPU) - gated} cases*",
        f"  not compared: {gated} that it says it cannot do; wrong as it says: 0",
        "SKIPPED*ours: it has no gate",
    ])  # fmt: skip


def test_a_kernel_of_triton_is_entered_when_it_is_launched(author: pytest.Pytester) -> None:
    """What else counts, and what does not, is asked of `EntryWatch` by itself."""
    result = run(author, "LAUNCHED", "-k", "no_gate-float32", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["provider rmsnorm_fn=mypkg.ops:LAUNCHED: 1 cases were compared and right; *"])


def test_where_there_is_nothing_to_launch_a_case_passes_and_proves_nothing_of_the_kernel(
    author: pytest.Pytester,
) -> None:
    result = run(author, "EMPTY", "-k", "empty_batch-float32", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "failed" not in result.parseoutcomes()
    said = "no case of it ran and was right, and 1 had nothing to launch; select them: *"
    result.stdout.fnmatch_lines([f"provider rmsnorm_fn=mypkg.ops:EMPTY: {said}"])


def test_what_had_nothing_to_launch_is_said_beside_what_was_compared(author: pytest.Pytester) -> None:
    result = run(author, "SIZED", "-k", "(no_gate or empty_batch) and float32", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([
        "provider rmsnorm_fn=mypkg.ops:SIZED: 1 cases were compared and right; Kernel *was entered * times and *",
        "  nothing to launch: 1 cases without an element",
    ])  # fmt: skip


def test_a_case_that_was_not_compared_fails_a_strict_session(author: pytest.Pytester) -> None:
    path = author.path / "test_numerics.py"
    path.write_text(path.read_text().replace("    scanproof_check_kernel(scanproof_case)", "    return"))
    result = run(author, "norm", "-k", "no_gate-float32", "--scanproof-strict")
    assert (result.parseoutcomes()["passed"], result.ret) == (1, pytest.ExitCode.TESTS_FAILED)
    result.stdout.fnmatch_lines([
        "provider rmsnorm_fn=mypkg.ops:norm: no case of it ran and was right; *",
        "not green under --scanproof-strict: no case ran and was right of what --scanproof-provider names: r*",
    ])  # fmt: skip


def test_a_provider_of_which_no_case_ran_fails_a_strict_session(author: pytest.Pytester) -> None:
    author.makepyfile(test_own="def test_own(): pass")
    named = "--scanproof-provider=rmsnorm_fn=mypkg.ops:norm"
    result = author.runpytest_subprocess(named, "test_own.py", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green*names: rmsnorm_fn=mypkg.ops:norm; select them: -m provider on the CPU*"])
    result = author.runpytest_subprocess(named, "test_own.py")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["provider rmsnorm_fn=mypkg.ops:norm: no case of it ran and was right; select*"])


def test_it_stands_in_place_of_the_installed_one(author: pytest.Pytester) -> None:
    result = run(author, "norm", "-k", "rmsnorm_fn or layer_norm_fn", "-m", "gpu", "--collect-only", "-q")
    ids = [line for line in result.outlines if line.startswith("test_numerics.py")]
    assert {line.endswith("-gpu-mypkg.ops:norm]") for line in ids if "[rmsnorm_fn" in line} == {True}
    others = [line for line in ids if "[layer_norm_fn" in line and not line.endswith("-gpu-fla]")]
    assert {line.endswith("-gpu]") for line in others} == {True}
    assert sum("[rmsnorm_fn" in line for line in ids) == len(CASES)


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_it_can_be_given_otherwise(author: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    names = ("rmsnorm_fn=mypkg.ops:norm", "rms_norm_fn=mypkg.ops:of_scanproof")
    if how == "ini":
        author.makeini("[pytest]\nscanproof_provider =\n    " + "\n    ".join(names))
    else:
        monkeypatch.setenv("SCANPROOF_PROVIDER", " ".join(names))
    result = author.runpytest_subprocess("-m", "provider", "-k", "no_gate-float32 or rms_norm_fn-first-float32")
    assert (result.parseoutcomes()["passed"], result.parseoutcomes()["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(["*provider rmsnorm_fn=mypkg.ops:norm: 1 cases*", "provider rms_norm_fn=*no case*"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("mypkg.ops:norm", "'mypkg.ops:norm' names no provider; write OPERATION=MODULE:FUNCTION, such as *"),
        ("rmsnorm_fn=mypkg.ops", "'rmsnorm_fn=mypkg.ops' names no provider; write OPERATION=MODULE:FUNCTION*"),
        ("rmsnorm=mypkg.ops:norm", "rmsnorm=mypkg.ops:norm: there is no operation rmsnorm; did you mean rmsnorm_fn?"),
        ("rmsnorm_fn=a:b rmsnorm_fn=c:d", "rmsnorm_fn=c:d: rmsnorm_fn=a:b is named already; name one provider *"),
        (
            "rmsnorm_fn=nopkg:norm",
            "rmsnorm_fn=nopkg:norm: nopkg cannot be imported: ModuleNotFoundError: *PYTHONPATH",
        ),
        ("rmsnorm_fn=mypkg.ops:nom", "rmsnorm_fn=mypkg.ops:nom: mypkg.ops (*mypkg/ops.py) has no nom"),
        ("rmsnorm_fn=mypkg.ops:NOT_CALLED", "*: mypkg.ops:NOT_CALLED is int, and not to be called"),
        (
            "rmsnorm_fn=mypkg.ops:few",
            "*: few (*mypkg/ops.py:*) takes no argument bias, z, * (rmsnorm_fn-edge-d7-float32 passes bias). Give *",
        ),
        ("rmsnorm_fn=mypkg.ops:UNBOUND", "*: known: no_gate-float32: offsets that wrap may break the GPU *"),
        ("rmsnorm_fn=mypkg.ops:UNKNOWN", "*: known: rmsnorm_fn has no case no_such-float32"),
        ("rmsnorm_fn=mypkg.ops:NO_BOUND", "*: known: no_gate-float32: times: out: Input should be greater than 1"),
        ("rms_norm_fn=mypkg.ops:ROW", "*: that provider is of rmsnorm_fn; write rmsnorm_fn=mypkg.ops:ROW"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(author: pytest.Pytester, given: str, why: str) -> None:
    result = author.runpytest_subprocess(f"--scanproof-provider={given}", "-m", "provider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: scanproof: --scanproof-provider*{why}"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_the_run_names_it(project: Project) -> None:
    project.document(models=("one",))
    package = project.pytester.mkpydir("mypkg")
    (package / "ops.py").write_text(NORM)
    project.run("--scanproof-provider=rmsnorm_fn=mypkg.ops:norm")
    kept = json.loads(json.dumps(project.latest_run()))
    assert kept["providers"] == {"rmsnorm_fn": "mypkg.ops:norm"}
