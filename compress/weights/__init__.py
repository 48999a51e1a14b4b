"""Checkpoints as tensors on disk: what they are called, how big they are, how they are stored another way."""
