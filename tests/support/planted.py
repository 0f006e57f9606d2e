"""Faults of every kind that triage tells apart, planted into a copy of the project that shares data and checkpoints."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scanproof.evaluation.imported import Imports
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.plugin.evaluator import link_or_copy
from tests.support.known_digests import copy_digests

ROOT = Path(__file__).parents[2]
MODEL = "mamba1-tiny"
NUMBER = "mamba1-tiny-lambada_openai-acc-embedded"
REFERENCE = "scanproof/kernels/references/papers.py"


@dataclass
class Copy:
    """A copy of the project, to be spoiled."""

    folder: Path
    path: list[str] = field(default_factory=list)
    """Further folders that `import` looks in first."""

    def edit(self, name: str, right: str, wrong: str) -> None:
        """Change one line of a file that is the copy's own."""
        path = self.folder / name
        text = path.read_text()
        assert right in text, f"the line to spoil is gone from {name}: {right}"
        path.unlink()
        path.write_text(text.replace(right, wrong, 1))
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def own(self, name: str) -> Path:
        """Make a linked file below the stand-ins' mirror the copy's own, the folders on the way too."""
        here = self.folder / "scanproof" / "embedded" / "mirror"
        for part in Path(name).parts:
            if here.is_symlink():
                there = here.resolve()
                here.unlink()
                here.mkdir()
                for child in there.iterdir():
                    (here / child.name).symlink_to(child)
            here = here / part
        there = here.resolve()
        here.unlink()
        shutil.copyfile(there, here)
        return here

    def harness(self) -> Path:
        """A copy of lm-eval that this copy imports; files are links until they are edited."""
        package = Imports().folder("lm_eval")
        assert package is not None
        place = self.folder / "site"
        for folder in (package, *package.parent.glob("lm_eval-*.dist-info")):
            shutil.copytree(
                folder, place / folder.name, copy_function=link_or_copy, ignore=shutil.ignore_patterns("__pycache__")
            )
        self.path.append(str(place))
        return place

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join([*self.path, str(self.folder)])}

    def evaluate(self, store: Path, *options: str, task: str = "lambada") -> subprocess.CompletedProcess[str]:
        """The stand-in's numbers of one task."""
        command = [
            sys.executable, "-m", "pytest", "-m", "embedded", "-q", "-p", "no:cacheprovider",
            "-k", f"{MODEL} and {task}", str(ROOT / "tests" / "published"),
            "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"),
            "--scanproof-store", str(store), "--scanproof-expected", str(self.folder / "expected"), *options,
        ]  # fmt: skip
        copy_digests(store)
        return self.run(command)

    def triage(self, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "scanproof", "triage", "latest", NUMBER, "--format", "json",
            "--store", str(store), "--expected", str(self.folder / "expected"), *options,
        ]  # fmt: skip
        return self.run(command)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )


def clean_copy(folder: Path) -> Copy:
    """The project without a fault, compiled as far as the original is."""
    shutil.copytree(ROOT / "scanproof", folder / "scanproof", ignore=shutil.ignore_patterns("mirror"))
    (folder / "scanproof" / "embedded" / "mirror").symlink_to(ROOT / "scanproof" / "embedded" / "mirror")
    shutil.copytree(ROOT / "expected", folder / "expected", ignore=shutil.ignore_patterns("latency"))
    return Copy(folder)


def _job(copy: Copy, right: str, wrong: str) -> None:
    copy.edit(f"expected/embedded/{MODEL}.yaml", right, wrong)


def wrong_scan(copy: Copy) -> None:
    copy.edit(REFERENCE, "y = y + D[:, None] * u", "y = y + 1.1 * D[:, None] * u")


def slightly_wrong_scan(copy: Copy) -> None:
    copy.edit(REFERENCE, "y = y + D[:, None] * u", "y = y + 1.02 * D[:, None] * u")


def shared_engine_mixes_up_answers(copy: Copy) -> None:
    """Every second request gets the answer of the one before it."""
    call = "tally = scoring.install(model, say=print)"
    spoil = "right = model._loglikelihood_tokens; model._loglikelihood_tokens = lambda *given, **options: "
    mixed = "[found[place - place % 2] for found in [right(*given, **options)] for place in range(len(found))]"
    copy.edit("scanproof/evaluation/worker/run.py", call, f"{call}\n        {spoil}{mixed}")


def state_of_the_neighbour(copy: Copy) -> None:
    """Every branch goes on from the state of the first prefix in its batch."""
    copy.edit("scanproof/scoring/engine.py", "prefix = carried.make_prefix(row)", "prefix = carried.make_prefix(0)")


def wrong_convolution(copy: Copy) -> None:
    copy.edit(REFERENCE, "torch.cat([before, x], dim=-1)", "torch.cat([before, x], dim=-1).roll(1, -1)")


def changed_prompt(copy: Copy) -> None:
    copy.harness()
    text = "doc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\""
    copy.edit("site/lm_eval/tasks/lambada/lambada_openai.yaml", text, text.replace("[:-1]", "[:-5]"))


def another_harness(copy: Copy) -> None:
    changed_prompt(copy)
    site = copy.folder / "site"
    (installed,) = site.glob("lm_eval-*.dist-info")
    version = installed.name.removeprefix("lm_eval-").removesuffix(".dist-info")
    copy.edit(f"site/{installed.name}/METADATA", f"\nVersion: {version}\n", "\nVersion: 0.4.12\n")
    installed.rename(site / "lm_eval-0.4.12.dist-info")
    copy.edit("site/lm_eval/tasks/lambada/lambada_openai.yaml", "version: 1.0", "version: 2.0")


def changed_dataset(copy: Copy) -> None:
    path = copy.own("EleutherAI/lambada_openai/default/test.jsonl")
    lines = path.read_text().splitlines()
    for place in range(100, 160):
        lines[place] = json.dumps({"text": json.loads(lines[place])["text"].rpartition(" ")[0] + " elsewhere"})
    path.write_text("".join(f"{line}\n" for line in lines))


def changed_bos(copy: Copy) -> None:
    path = copy.own(f"scanproof/{MODEL}/tokenizer.json")
    told = json.loads(path.read_text())
    bos, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    told["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    path.write_text(json.dumps(told))


def fallback(copy: Copy) -> None:
    _job(copy, "  device: cpu\n", "  device: cpu\n  kernels: [selective_scan]\n")


def killed(copy: Copy) -> None:
    line = '    reporter.stage("tasks")'
    copy.edit("scanproof/evaluation/worker/run.py", line, "    os.kill(os.getpid(), signal.SIGKILL)\n" + line)


def another_dtype(copy: Copy) -> None:
    _job(copy, "  dtype: float32\n", "  dtype: bfloat16\n")


def answers_for_halves(copy: Copy) -> None:
    """The recorded answers say that they are for jobs in bfloat16, whose rounding has no ceiling."""
    path = copy.folder / f"expected/embedded/{MODEL}{ANSWERS}"
    header, _, rows = gzip.decompress(path.read_bytes()).decode().partition("\n")
    told = json.dumps(json.loads(header) | {"dtype": "bfloat16"})
    path.unlink()
    path.write_bytes(gzip.compress(f"{told}\n{rows}".encode()))


def noise(copy: Copy) -> None:
    another_dtype(copy)
    answers_for_halves(copy)
    _job(copy, 'printed: "0.4200"', 'printed: "0.5000"')
    logits = "return Output(self.lm_head(hidden), state)"
    noisy = "return Output(self.lm_head(hidden * (1 + 2**-8 * torch.randn_like(hidden))), state)"
    copy.edit("scanproof/models/language_model.py", logits, noisy)


def wrong_print(copy: Copy) -> None:
    _job(copy, 'printed: "0.4200"', 'printed: "0.5000"')


def another_checkpoint(copy: Copy) -> None:
    from safetensors.numpy import load_file, save_file

    path = copy.own(f"scanproof/{MODEL}/model.safetensors")
    weights = load_file(path)
    name = "backbone.layers.0.mixer.out_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, path, metadata={"format": "pt"})


SHARED = ("--scanproof-engine", "shared")
"""Without it every number that fails is measured a second time, by the plain engine."""


@dataclass(frozen=True)
class Fault:
    """What is planted, and what triage has to say first."""

    name: str
    plant: Callable[[Copy], None]
    kind: str
    said: str
    """A part of the title."""
    good: bool = True
    """Whether a good run lies in the store; else there are the recorded answers alone."""
    substituted: str | None = None
    """What the title names after --substitute."""
    options: tuple[str, ...] = SHARED
    """Of the session."""
    forked: bool = True
    """Whether its processes may be forks of one that has their imports; not where it is about how a worker ends."""


FAULTS = (
    Fault("a wrong scan", wrong_scan, "numerics", "the computation changed", substituted="selective_scan", options=()),
    Fault(
        "a scan wrong by 2%", slightly_wrong_scan, "numerics", "the computation changed", substituted="selective_scan"
    ),
    Fault("a wrong convolution", wrong_convolution, "numerics", "the computation changed", substituted="causal_conv1d"),
    Fault(
        "answers of the neighbour, in shared scoring only",
        shared_engine_mixes_up_answers,
        "engines",
        "the engines disagree",
        options=(),
    ),
    Fault("a changed prompt", changed_prompt, "task", "the prompt changed"),
    Fault("a changed dataset", changed_dataset, "task", "the dataset changed"),
    Fault("a changed BOS", changed_bos, "task", "BOS"),
    Fault("another lm-eval version", another_harness, "environment", "another lm-eval"),
    Fault("a fallback", fallback, "fallback", "a fallback was measured"),
    Fault("an out-of-memory kill", killed, "broken run", "not a regression", forked=False),
    Fault("another dtype", another_dtype, "environment", "another dtype"),
    Fault("another checkpoint", another_checkpoint, "environment", "another checkpoint"),
    Fault("noise only", noise, "noise", "noise of this size explains", good=False),
    Fault("a misprinted expected value", wrong_print, "noise", "nothing moved"),
)
