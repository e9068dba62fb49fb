"""What watches a run: recorder, histograms and pictures of row gradients, checkpoints, and what stops it early."""

from rowgrad.callbacks.checkpoints import Checkpoints
from rowgrad.callbacks.histograms import PerImageHistograms
from rowgrad.callbacks.pictures import Pictures
from rowgrad.callbacks.recorder import RowGradientRecorder
from rowgrad.callbacks.stops import FiniteLoss, GracefulStop

__all__ = ["Checkpoints", "FiniteLoss", "GracefulStop", "PerImageHistograms", "Pictures", "RowGradientRecorder"]
