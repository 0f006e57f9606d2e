"""Reads and checks the folder of expected values."""
