"""What a coordinator knows for good: runs, rounds, models and which model is promoted."""

from silhouette_server.registry.promotion import Margin, Verdict, compare
from silhouette_server.registry.registry import Fault, Model, Registry, Submission
from silhouette_server.registry.state import RoundState, RoundView, RunState, RunView, TransitionError, UnknownError

__all__ = [
    "Fault",
    "Margin",
    "Model",
    "Registry",
    "RoundState",
    "RoundView",
    "RunState",
    "RunView",
    "Submission",
    "TransitionError",
    "UnknownError",
    "Verdict",
    "compare",
]
