"""What a coordinator knows for good: runs, rounds, models and which model is promoted."""

from silhouette_server.registry.model_files import Model
from silhouette_server.registry.promotion import Margin, Verdict, compare
from silhouette_server.registry.registry import Registry, Submission
from silhouette_server.registry.state import RoundState, RoundView, RunState, RunView, TransitionError, UnknownError
from silhouette_server.registry.verification import Fault

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
