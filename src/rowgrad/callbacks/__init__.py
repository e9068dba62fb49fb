"""What watches a run: the recorder of row gradients, checkpoints, signals."""

from rowgrad.callbacks.checkpoints import Checkpoints
from rowgrad.callbacks.recorder import RowGradientRecorder
from rowgrad.callbacks.signals import GracefulStop

__all__ = ["Checkpoints", "GracefulStop", "RowGradientRecorder"]
