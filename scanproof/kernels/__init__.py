"""Checks of single GPU operations: their cases, references, invariants, launches and latencies."""
