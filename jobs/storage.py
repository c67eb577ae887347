#!/usr/bin/env python
"""What is broken on a storage: `python jobs/storage.py --help`."""

from jobs._storage import main

if __name__ == "__main__":
    main()
