"""Fully convolutional networks: the science, in plain PyTorch, without a cluster."""
