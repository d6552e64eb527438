"""What a run folder says: a page to read (`write_report`) and a paired comparison (`compare`)."""

from silhouette_simulations.report.comparison import Comparison, Difference, compare
from silhouette_simulations.report.page import write_report

__all__ = ["Comparison", "Difference", "compare", "write_report"]
