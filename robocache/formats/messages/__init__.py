"""Messages of any container, decoded into columns: definitions, layouts, encodings."""
