"""Tests of `scanproof.kernels` that need no GPU: `tests/kernels` is the suite that checks the installed kernels."""
