#!/usr/bin/env python
"""Train FCN-16s: `python jobs/train_fcn16s.py --help`."""

from jobs._train import main

if __name__ == "__main__":
    main(stride=16)
