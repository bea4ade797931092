"""From aligned sources to output columns: the type of a feature, and how its values and validity are made."""

from robocache.features.columns import Aligned, assemble, feature_type

__all__ = ["Aligned", "assemble", "feature_type"]
