"""From boxes to slices."""
