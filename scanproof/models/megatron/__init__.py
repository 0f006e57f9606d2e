"""NVIDIA's Mamba-2 hybrids, read from the checkpoint folder that Megatron wrote; importing this imports no torch.

`architecture` says what the model is, `reading` opens the pickle, `conversion` renames the tensors into transformers'
NemotronH, `tokenizer` reads the SentencePiece file, `model` is the class for lm-eval, `writing` writes safetensors.
"""
