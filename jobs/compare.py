#!/usr/bin/env python
"""Compare runs: `python jobs/compare.py --help`."""

from jobs._compare import main

if __name__ == "__main__":
    main()
