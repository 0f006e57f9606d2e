"""Runs of many machines in one folder or bucket: published, read back, compared, and judged against a baseline."""
