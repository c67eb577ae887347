#!/usr/bin/env python
"""Train FCN-8s: `python jobs/train_fcn8s.py --help`."""

from jobs._train import main

if __name__ == "__main__":
    main(stride=8)
