"""Public data sets in canonical form.

`get` fetches or reads a data set, checks all of it and keeps it in the cache; `load` takes it from
the cache. What both return has been checked: see `canonical.check` for the promises.
"""

from .base import Dataset, DatasetInfo, Tables, Times
from .registry import available, get, info, load

__all__ = ["Dataset", "DatasetInfo", "Tables", "Times", "available", "get", "info", "load"]
