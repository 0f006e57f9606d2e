"""The MambaInLlama checkpoints (arXiv 2408.15237): Llama with Mamba in place of some attention layers."""
