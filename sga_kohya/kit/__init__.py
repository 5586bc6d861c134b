"""What every command needs and no one owns. Serves everyone, and knows of no other part of the package but errors."""
