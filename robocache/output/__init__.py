"""All that is written and read back: parts, manifest, tables, and the protocol that commits them."""
