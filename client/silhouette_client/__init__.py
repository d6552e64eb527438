"""What may see one person's data: a partner's own training, profiles and recommendations.

Imports `silhouette_shared` only, never the server or the simulations.
"""
