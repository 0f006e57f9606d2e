"""Stand-ins for an installed kernel package, and a checkpoint whose own code calls its CUDA extension."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import load_file, save_file

from tests.support import small_mirror as small

EXTENSION = '''\
"""Takes the place of mamba-ssm's extension; its only entry point returns its argument."""

def fwd(x):
    return x
'''
NETWORK = """\
from transformers import GPTNeoXForCausalLM
CALLS

class Network(GPTNeoXForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = scan(output.logits)
        return output
"""
INSTALLED = """\
import selective_scan_cuda

def scan(x):
    return selective_scan_cuda.fwd(x)
"""
FALLBACK = """\
def scan(x):
    return x
"""
JOB = replace(small.JOB, kernels=("selective_scan_fwd_kernel",), trust_remote_code="code of this test")


def install(site: Path, *, listed: bool = True) -> Path:
    """Put the extension into a folder of installed packages; unlisted, no distribution says that it is its own."""
    site.mkdir(parents=True)
    (site / "selective_scan_cuda.py").write_text(EXTENSION)
    if listed:
        info = site / "mamba_ssm-9.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mamba-ssm\nVersion: 9.0\n")
        (info / "RECORD").write_text("selective_scan_cuda.py,,\nmamba_ssm-9.0.dist-info/RECORD,,\n")
    return site


def checkpoint(mirror: Path, calls: str) -> Path:
    """Give the mirror's checkpoint code of its own, which scans with `calls`."""
    folder = mirror / small.MODEL
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "network.Network"}, "architectures": ["Network"]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    # The library renames this one for its own classes only.
    weights["lm_head.weight"] = weights.pop("embed_out.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "network.py").write_text(NETWORK.replace("CALLS", calls))
    return mirror
