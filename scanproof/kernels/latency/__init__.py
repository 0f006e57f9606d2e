"""Measures how long operations take and compares that with baselines: cases, timer, device limits, verdict."""
