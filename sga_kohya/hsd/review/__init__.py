"""The page on which a person looks slices over, and what was decided there."""
