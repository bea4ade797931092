"""Running on a Ray cluster, and recordings as a Ray Data dataset. Nothing outside imports Ray."""
