"""The profile encoder: histories in, profiles and scores out."""
