"""A seed or a story in; a plant that runs, wears and breaks, as signals, out."""
