"""Events that come while the service runs: into the history, through the encoder, into the answers."""
