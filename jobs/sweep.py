#!/usr/bin/env python
"""Search learning rates, skip configurations and other settings: `python jobs/sweep.py --help`."""

from jobs._sweep import main

if __name__ == "__main__":
    main()
