"""A one-line change to an installed Triton kernel turns a project's copied test red, and the message says where."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scanproof.plugin.kernel_fixtures import Missing

CHANGES = [
    pytest.param("ssd_state_passing.py", "scale = tl.exp(dA_cs)", "scale = tl.exp(dA_cs * 0.9)", id="decay_exponent"),
    pytest.param("ssd_state_passing.py", "states = scale * states + new_states", "states = new_states", id="state"),
]
RED = re.compile(
    r"mamba_chunk_scan_combined-states-l70-float32: .*\n.*  (out|final_states)\[\d+(, \d+){3}\]: expected "
)


@pytest.mark.interpreted
@pytest.mark.parametrize(("file", "line", "changed"), CHANGES)
def test_a_changed_kernel_is_found(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path, file: str, line: str, changed: str
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    spec = importlib.util.find_spec("mamba_ssm.ops")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    copy = tmp_path / "mamba_ssm"
    shutil.copytree(Path(next(iter(spec.submodule_search_locations))).parent, copy)
    kernel = copy / "ops" / "triton" / file
    source = kernel.read_text()
    assert line in source, f"{file} has no line {line!r} any more: choose another change"
    own = tmp_path / "project"
    own.mkdir()
    shutil.copy(Path(__file__).with_name("test_numerics.py"), own)
    arguments = ["-m", "interpreted", "-p", "no:cacheprovider", "-k", "combined-states-l70-float32-interpreter"]
    for text, code in ((source, 0), (source.replace(line, changed, 1), 1)):
        kernel.write_text(text)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "test_numerics.py", *arguments],
            cwd=own,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, result.stdout + result.stderr
    assert RED.search(result.stdout), result.stdout
