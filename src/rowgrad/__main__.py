"""`python -m rowgrad scenario=augment` is `python scripts/train.py scenario=augment`."""

from rowgrad.training.command import main

if __name__ == "__main__":
    main()
