"""What says in words what a slice shows: a module each."""
