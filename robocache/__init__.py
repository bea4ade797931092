"""RoboCache: raw multi-rate robot logs in, one time-aligned, training-ready Arrow dataset out."""
