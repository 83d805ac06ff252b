"""Operators: each a folder with validation and dispatch, a reference in plain PyTorch, and Triton kernels."""
