"""Profiles of a partner's own people, which stay at the partner."""
