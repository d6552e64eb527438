"""What the coordinator does with answers."""
