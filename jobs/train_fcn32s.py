#!/usr/bin/env python
"""Train FCN-32s: `python jobs/train_fcn32s.py --help`."""

from jobs._train import main

if __name__ == "__main__":
    main(stride=32)
