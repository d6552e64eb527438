"""The audit: canaries and made-up people through the production path, and what they show."""
