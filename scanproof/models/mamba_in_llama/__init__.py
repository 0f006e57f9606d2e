"""Llama with some of its attention layers turned into Mamba: the MambaInLlama checkpoints (arXiv 2408.15237)."""
