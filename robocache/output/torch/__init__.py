"""A dataset that a run has made, as a training loop in PyTorch takes it."""

from robocache.output.torch.batches import Batches, WindowSampler
from robocache.output.torch.dataset import Dataset
from robocache.output.torch.items import Batch, Item

__all__ = ["Batch", "Batches", "Dataset", "Item", "WindowSampler"]
