"""What holds for every test."""

import torch

# Test runners already use every core; with more threads each, tiny steps take many times as long.
torch.set_num_threads(1)
