"""What SGA does in a training run, for any host."""
