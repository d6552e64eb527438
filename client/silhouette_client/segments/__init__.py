"""Groups of a node's people: by a rule, by likeness, or by clustering. They stay at the node, as profiles do."""
