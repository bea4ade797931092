"""Sample logs of a simulated 7-joint arm, with the faults of real recordings and an analytic ground truth."""

from robocache.sample.logs import write_samples
from robocache.sample.signals import truth, vibration

__all__ = ["truth", "vibration", "write_samples"]
