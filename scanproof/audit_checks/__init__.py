"""The five families of `scanproof audit`, one per file.  Each is a pure function from values to findings."""
