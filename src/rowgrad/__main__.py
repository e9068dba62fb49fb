"""`python -m rowgrad scenario=augment`; in a clone `python scripts/train.py scenario=augment` is the same."""

from rowgrad.errors import run_script


def main() -> None:
    """The command."""
    run_script("train", _train)


def _train() -> None:
    from rowgrad.training.command import main as train  # late: missing packages are reported as one plain line

    train()


if __name__ == "__main__":
    main()
