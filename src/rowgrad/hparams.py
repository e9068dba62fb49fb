"""What TensorBoard's HParams tab shows of a run: what was set, beside the metrics at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

if TYPE_CHECKING:
    from pathlib import Path

    from rowgrad.summary import Summary

METRICS = ("val/acc", "test/acc", "test/acc_operated", "test/loss")  # tags that the run has logged
TRAINER = ("trainer.max_epochs", "trainer.max_steps", "trainer.accumulate_grad_batches", "trainer.precision")


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists become words, and what is null or says how to build is left out."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None and not key.startswith("_"):
            found[prefix + key] = str(value) if isinstance(value, list) else value
    return found


def write_hparams(folder: Path, config: DictConfig, summary: Summary) -> None:
    """Adds a finished run's folder to the HParams tab; the metrics are the scalars of the same tags."""
    if summary["status"] != "done":
        return
    whole = OmegaConf.to_container(config, resolve=True)
    assert isinstance(whole, dict)
    settings = flat({str(key): value for key, value in whole.items() if key not in {"callbacks", "resume"}})
    chosen = {key: value for key, value in settings.items() if not key.startswith("trainer.") or key in TRAINER}
    metrics = {metric: summary[metric] for metric in METRICS if metric in summary}
    with SummaryWriter(folder / "tensorboard") as writer:
        for part in hparams(chosen, metrics):
            writer.file_writer.add_summary(part)
