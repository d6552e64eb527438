"""What client and server must agree on exactly.

The encoder and its evaluation, the privacy mechanism and its accounting, the
settings, the errors and the root of the `silhouette` command. Imports neither
of the other packages.
"""
