"""A dataset as one page of HTML: what is good about it and what is not, at a look."""

from robocache.engine.page.page import Fused, Picture, Recorded, Trace, page

__all__ = ["Fused", "Picture", "Recorded", "Trace", "page"]
