"""Arithmetic of verdicts: tolerance, flip bounds, paired tests, the gate of the baseline, outcomes."""
