"""Answers about people to a partner's own applications: over gRPC, on a local socket, by role."""
