"""Images of the variants."""
