"""A page and a list of numbers for whoever watches a coordinator. Both read, and change nothing."""
