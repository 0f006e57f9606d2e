"""scanproof: do Mamba's published numbers still come out, and are its scan kernels still right?"""

__version__ = "0.1.0"
