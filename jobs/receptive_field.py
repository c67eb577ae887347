#!/usr/bin/env python
"""Show what units of a network see: `python jobs/receptive_field.py --help`."""

from jobs._receptive_field import main

if __name__ == "__main__":
    main()
