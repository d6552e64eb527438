"""What sees more than one partner's contribution: the rounds, the sum and the global model.

Imports `silhouette_shared` only, never the client or the simulations. Nothing
here may see one person's record.
"""
