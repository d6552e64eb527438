from silhouette_client.training.hooks import OpacusHooks


class Bookkeeping(OpacusHooks): ...
