"""Which kernels were launched, from which package, and what has to be."""
