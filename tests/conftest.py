"""What holds for every test."""

import signal

import torch

# Test runners already use every core; with more threads each, tiny steps take many times as long.
torch.set_num_threads(1)

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it would be in the commands that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
