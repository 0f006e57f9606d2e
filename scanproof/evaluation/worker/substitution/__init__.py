"""Score documents again with one operation at a time replaced by its float64 reference, in a process of its own."""
