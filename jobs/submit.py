#!/usr/bin/env python
"""Submit a command to a Ray cluster and follow it: `python jobs/submit.py --help`."""

from jobs._submit import main

if __name__ == "__main__":
    main()
