#!/usr/bin/env python
"""The registry of models: `python jobs/models.py --help`."""

from jobs._models import main

if __name__ == "__main__":
    main()
