"""`python -m rowgrad scenario=augment`; in a clone `python scripts/train.py scenario=augment` is the same."""

from rowgrad.errors import tell_mistakes_plainly
from rowgrad.process import commanded


def main() -> None:
    """The command."""
    tell_mistakes_plainly("train")
    with commanded():
        from rowgrad.training.command import main as train  # late: where packages are missing, that is one plain line

        train()


if __name__ == "__main__":
    main()
