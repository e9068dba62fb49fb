"""Trains: `python scripts/train.py scenario=augment seed=1`. `--help` lists the config groups and keys."""

from rowgrad.__main__ import main

if __name__ == "__main__":
    main()
