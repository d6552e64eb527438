"""The long-lived processes of a coordinator: gate, SuperLink, ServerApp."""
