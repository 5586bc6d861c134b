"""What a run leaves in OUT."""
