"""What was printed, and what may be said of it: pure, nothing heavy."""
