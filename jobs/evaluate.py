#!/usr/bin/env python
"""Score a run: `python jobs/evaluate.py --help`."""

from jobs._evaluate import main

if __name__ == "__main__":
    main()
