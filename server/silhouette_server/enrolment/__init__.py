"""The consortium's authority: its keys and certificates, requests that it signs, and the roster."""
