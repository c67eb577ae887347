#!/usr/bin/env python
"""Train FCN-32s, then 16s from it, then 8s from that: `python jobs/train_staged.py --help`."""

from jobs._staged import main

if __name__ == "__main__":
    main()
