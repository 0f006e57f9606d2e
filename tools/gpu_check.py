"""Run the steps of `gpu_steps.py` and leave a summary; called by `gpu_check.sh`, which prepares the environment.

After every step the folder of results holds summary.md, steps.json, log.txt, evidence.tar.gz and, where one was
recorded, the baseline of latencies.  A step that is done is not repeated unless `--again` asks for it, or it ran under
other conditions: another commit, other files, another GPU, driver or package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import gpu_conditions
import gpu_missing
import gpu_results
from gpu_results import Result
from gpu_steps import STEPS, Step, named

ROOT = Path(__file__).parents[1]
NO_GPU = 3
"""Exit code where there is no GPU and nothing was run."""
GRACE = 20
"""Seconds between the request to stop, after which pytest writes its report, and the end."""
LEAST = 10
"""Seconds: with less left no step is begun."""
KERNELS = {
    "mamba1-tiny": "selective_scan_fwd_kernel, causal_conv1d_fwd_kernel",
    "mamba2-tiny": "_chunk_scan_fwd_kernel, causal_conv1d_channellast_fwd_kernel",
    "mamba-7b-tiny": "selective_scan_fwd_kernel, causal_conv1d_channellast_fwd_kernel",
    "mamba-hybrid-tiny": "selective_scan_fwd_kernel, causal_conv1d",
    "mamba2-hybrid-tiny": "_chunk_scan_fwd_kernel, causal_conv1d",
    "megatron-hybrid-tiny": "_chunk_scan_fwd_kernel, causal_conv1d",
    "mamba2attn-tiny": "",
    "pythia-tiny": "",
    "pythia-tiny-without-1": "",
}
"""What a stand-in has to launch on a GPU: what the published models of its family have to, attention apart."""


def expected_on_gpu(folder: Path, keep_latencies: bool = False) -> Path:
    """Copy the expected values so that stand-ins run on the GPU, and have to launch their family's kernels.

    An earlier copy is replaced, but for the latencies that were recorded into it where they are to be kept.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(ROOT / "expected", part)
    for path in sorted((part / "embedded").glob("*-tiny*.yaml")):
        if path.stem not in KERNELS:
            raise SystemExit(f"gpu_check: {path}: KERNELS in {__file__} does not say what it has to launch")
        needed = KERNELS[path.stem]
        text = "  device: cuda\n" + (f"  kernels: [{needed}]\n" if needed else "")
        before = path.read_text(encoding="utf-8")
        if "  device: cpu\n" not in before:
            raise SystemExit(f"gpu_check: {path}: there is no line `device: cpu`")
        path.write_text(before.replace("  device: cpu\n", text), encoding="utf-8")
    if keep_latencies and (folder / "latency").is_dir():
        shutil.copytree(folder / "latency", part / "latency", dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def plugin() -> list[str]:
    """`-p scanproof.plugin.hooks` where scanproof is a clone on the path, and nothing where it is installed."""
    from importlib import metadata

    try:
        metadata.distribution("scanproof")
    except metadata.PackageNotFoundError:
        return ["-p", "scanproof.plugin.hooks"]
    return []


def arguments(step: Step, work: Path, rehearsal: bool) -> list[str]:
    """The command line of a step."""
    places = {"tools": ROOT / "tools", "root": ROOT, "on_gpu": work / "expected"}

    def filled(text: str) -> str:
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    if step.command:
        return [sys.executable, *map(filled, step.command)]
    # What torch warns of on a GPU is shown, and is not a wrong result.
    how = ["-q", "-W", "default", "-p", "no:cacheprovider", "--scanproof-strict", f"--scanproof-store={work / 'store'}"]
    report = [f"--junitxml={work / step.name}.xml", "-o", "junit_logging=no"]
    chosen = [each for each in step.tests if not (rehearsal and each.startswith("-n"))]
    return [
        sys.executable, "-m", "pytest", *plugin(), *how, *report, *(["--maxfail=1"] if rehearsal else []),
        *map(filled, chosen),
    ]  # fmt: skip


def run(step: Step, limit: int, work: Path, rehearsal: bool) -> Result:
    """Run a step in processes of its own, in at most so many seconds; what it says is kept."""
    log, report = work / f"{step.name}.log", work / f"{step.name}.xml"
    report.unlink(missing_ok=True)
    command = arguments(step, work, rehearsal)
    limited = ["timeout", "--signal=INT", f"--kill-after={GRACE}", str(limit), *command]
    began = time.monotonic()
    # Unbuffered, so that the last line of the log is the last thing that was said.
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as target:
        done = subprocess.run(limited, cwd=ROOT, stdout=target, stderr=subprocess.STDOUT, env=variables, check=False)
    seconds = time.monotonic() - began
    return gpu_results.judged(step, done.returncode, seconds, report if step.tests else None, log, rehearsal)


def selections(work: Path, table: Sequence[Step] = STEPS) -> int:
    """Print how many tests each step selects, with its own command line; 1 where it is none."""
    empty = 0
    expected_on_gpu(work / "expected")
    for step in (each for each in table if each.tests):
        command = [*arguments(step, work, rehearsal=False), "--collect-only"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        count = sum("::" in line for line in done.stdout.splitlines())
        good = count > 0 and done.returncode == 0
        print(f"{step.name:<14} {count:>5} tests" + ("" if good else f": {done.stdout[-2000:]}{done.stderr[-2000:]}"))
        empty += not good
    return int(empty > 0)


def doctor() -> int:
    """What `scanproof doctor` says, and whether every requirement is met; what is left out is not asked for."""
    bare = gpu_missing.read(gpu_missing.BARE)
    roots = [*gpu_missing.wanted(bare, ROOT / "pyproject.toml"), *gpu_missing.BUILT]
    unmet = list(gpu_missing.lacking(roots, gpu_missing.left_out(bare)))
    from scanproof.kernels import doctor as checks
    from scanproof.kernels.launches import machine

    subprocess.run([sys.executable, "-m", "scanproof", "doctor"], check=False)
    missing = checks.missing_rows(checks.diagnose(machine.examine()))
    found = [row for row in missing if row.what != "flash-attn" and set(row.found.split("; ")) != {"no flash-attn"}]
    # The last line is the step's reason.
    told = [*(f"{row.what}: {row.found}" for row in found), *unmet]
    print("missing: " + "; ".join(told) if told else "nothing is missing")
    return int(bool(found or unmet))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="gpu_check.sh", description="steps: " + ", ".join(step.name for step in STEPS))
    made.add_argument("steps", nargs="*", metavar="STEP", help="which; all by default")
    made.add_argument(
        "--out", type=Path, default=os.environ.get("OUT") or None, help="folder of results; default: $OUT"
    )
    made.add_argument(
        "--work", type=Path, default=Path("/tmp/scanproof-gpu"), help="folder of what stays between calls"
    )
    made.add_argument("--earlier", type=Path, help="results of an earlier call, from another machine, to go on from")
    made.add_argument("--within", type=int, metavar="SECONDS", help="end by then, with whole results of what was run")
    made.add_argument(
        "--beside",
        type=int,
        default=1,
        metavar="N",
        help="steps at once; what needs the GPU alone has it",
    )
    made.add_argument("--again", action="store_true", help="repeat steps that are done")
    made.add_argument("--rehearse", action="store_true", help="without a GPU: each step up to its first failure")
    made.add_argument("--selections", action="store_true", help="say how many tests each step selects, and end")
    made.add_argument("--doctor", action="store_true", help="the step of this name: what is missing here, and end")
    made.epilog = "for gpu_check.sh itself: --python PYTHON, --wheels FOLDER of tools/gpu_wheels.sh"
    return made


def take_all(steps: Sequence[Step], take: Callable[[Step], None], beside: int) -> None:
    """Take steps in their order, `beside` at once, but those that need the GPU alone one by one."""
    with ThreadPoolExecutor(max_workers=max(1, beside)) as pool:
        for alone, neighbours in groupby(steps, key=lambda step: step.alone):
            run_all = map if alone else pool.map
            # The list waits for the last of them, and raises what one of them raised.
            list(run_all(take, neighbours))


def main(argv: Sequence[str] | None = None, table: Sequence[Step] = STEPS) -> int:
    """Run what was asked for; 1 if any of it is red, or did not end."""
    given = parser().parse_args(argv)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.doctor:
        return doctor()
    if given.selections:
        return selections(given.work)
    steps = named(given.steps, table)
    if given.out is None:
        raise SystemExit("gpu_check: give the folder of results: --out FOLDER, or OUT in the environment")
    from scanproof import environment

    reason = environment.why_no_gpu()
    if reason and not given.rehearse:
        print(f"gpu_check: {reason}; --rehearse tries the way without one", file=sys.stderr)
        return NO_GPU
    given.out.mkdir(parents=True, exist_ok=True)
    folders = [given.out, given.work, *filter(None, [given.earlier])]
    gpu_results.restore([folder / gpu_results.EVIDENCE for folder in folders], given.work)
    looking, writing = threading.Lock(), threading.Lock()

    def look() -> dict[str, Any]:
        with looking:
            return gpu_conditions.of_machine(gpu_results.machine(), given.work / "digests.sqlite")

    now = look()
    done = gpu_results.read(folders, now)
    for step in steps:
        if step.at_each_call or given.again or not gpu_results.has_evidence(step, given.work):
            # Were there no time left for it, it would be green by what it was before.
            done.pop(step.name, None)
    ends = None if given.within is None else time.monotonic() + given.within

    def keep(step: Step, result: Result) -> None:
        with writing:
            done[step.name] = result
            gpu_results.write(done, table, given.work, given.out, result.conditions)

    def take(step: Step) -> None:
        now = look()
        before = done.get(step.name)
        if before and before.ended and not before.rehearsed:
            other = gpu_conditions.differences(before.conditions, now)
            if not other:
                print(f"{step.name}: done before, {before.outcome}", flush=True)
                return
            print(
                f"{step.name}: {before.outcome} before, under other conditions ({'; '.join(other)}): run again",
                flush=True,
            )
        limit = step.limit if ends is None else min(step.limit, int(ends - time.monotonic()) - GRACE)
        if limit < min(LEAST, step.limit):
            print(f"{step.name}: not begun, there is no time left", flush=True)
            return
        print(f"{step.name}: at most {limit} s", flush=True)
        # What is killed from outside is found as not ended.
        keep(step, gpu_results.begun(step, now))
        keep(step, replace(run(step, limit, given.work, given.rehearse), conditions=now))
        print(gpu_results.line(done[step.name]), flush=True)

    counted = [step for step in table if step.name in done and done[step.name].conditions == now]
    # Once, before several steps read it.
    expected_on_gpu(given.work / "expected", any(step.records_latencies for step in counted))
    take_all(steps, take, given.beside)
    now = look()
    # Also where nothing had to be repeated, and the folder of results is a new one.
    gpu_results.write(done, table, given.work, given.out, now)
    print(given.out / gpu_results.SUMMARY)
    return int(not all(step.name in done and done[step.name].counts_as_green(now, given.rehearse) for step in steps))


if __name__ == "__main__":
    sys.exit(main())
