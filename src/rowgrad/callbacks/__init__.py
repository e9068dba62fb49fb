"""What watches a run: the recorder of row gradients, checkpoints, and what stops it early."""

from rowgrad.callbacks.checkpoints import Checkpoints
from rowgrad.callbacks.recorder import RowGradientRecorder
from rowgrad.callbacks.stops import FiniteLoss, GracefulStop

__all__ = ["Checkpoints", "FiniteLoss", "GracefulStop", "RowGradientRecorder"]
