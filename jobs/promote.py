#!/usr/bin/env python
"""Make a run the champion of a model: `python jobs/promote.py --help`."""

from jobs._promote import main

if __name__ == "__main__":
    main()
