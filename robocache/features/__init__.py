"""From aligned sources to output columns: the type of a feature, its steps, how its values and validity are made."""

from robocache.features.columns import Aligned, abreast, assemble, feature_type, stepped
from robocache.features.steps import Compute, Samples, Step

__all__ = ["Aligned", "Compute", "Samples", "Step", "abreast", "assemble", "feature_type", "stepped"]
