"""Known defect of mamba-ssm (docs/defects.md): SSD over a sequence of no positions ends its process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from scanproof.plugin.kernel_fixtures import Missing

CALLS = {
    "mamba_chunk_scan_combined": "mamba_chunk_scan_combined(x, dt, A, B, B, 32, return_final_states=True)",
    "mamba_split_conv1d_scan_combined": (
        "mamba_split_conv1d_scan_combined(torch.randn(1, 0, 65), torch.randn(48, 4), torch.randn(48), A, A, A, 32, "
        "headdim=16)"
    ),
}
SCRIPT = """
from scanproof.kernels import interpreter

assert interpreter.why_not() is None, interpreter.why_not()
interpreter.prepare()
import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

x, dt, A = torch.randn(1, 0, 1, 16), torch.rand(1, 0, 1), -torch.rand(1)
B = torch.randn(1, 0, 1, 16)
print("ready", flush=True)
CALL
print("returned", flush=True)
"""


@pytest.mark.interpreted
@pytest.mark.parametrize("name", CALLS)
def test_a_sequence_of_no_positions_ends_the_process(
    name: str, scanproof_interpreter: str | None, scanproof_missing: Missing
) -> None:
    """It passes as long as mamba-ssm is wrong: the day that the call returns, it is a row of cases.yaml.

    The tensor of states has no element, and so no address: what is written there is written to address 0.
    """
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    script = SCRIPT.replace("CALL", CALLS[name])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("ready\n", -signal.SIGSEGV), done.stderr
