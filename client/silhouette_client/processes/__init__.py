"""The long-lived processes of a node: connector, SuperNode, agent."""
