"""Running rounds: the roster, the strategy in Flower's terms, checkpoints."""
