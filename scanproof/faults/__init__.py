"""Faults that are planted on purpose, and the exam in which the suite's checks have to find them."""
