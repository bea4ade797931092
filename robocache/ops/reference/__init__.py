"""Every operator again in plain torch, a module a family, with the names of :mod:`robocache.ops`: the oracle of the
tests, and the fallback where the compiled extension has no kernel."""
