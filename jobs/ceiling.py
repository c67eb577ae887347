#!/usr/bin/env python
"""What the strides of the networks cost on a data set: `python jobs/ceiling.py --help`."""

from jobs._ceiling import main

if __name__ == "__main__":
    main()
