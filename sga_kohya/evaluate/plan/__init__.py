"""What is compared: plans and how they are written."""
