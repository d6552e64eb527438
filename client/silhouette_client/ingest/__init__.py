"""From a partner's tables to tensors."""
