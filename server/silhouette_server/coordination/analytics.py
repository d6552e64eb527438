"""The figures of a run: each is asked for once, under secure aggregation, the evaluation after the training."""

import numpy as np
from torch import Tensor

from silhouette_server.coordination.cohort import Cohort
from silhouette_server.coordination.released import ReleasedSums
from silhouette_shared.config import ReleaseName
from silhouette_shared.model.appraisal import Sheet
from silhouette_shared.model.figures import FIGURES


def release(name: ReleaseName, cohort: Cohort, released: ReleasedSums) -> None:
    """Ask everybody for one figure, not the evaluation, and keep the sum.

    Raises:
        VoidRoundError: If there is no sum.
    """
    secure = cohort.secure
    size = len(FIGURES[name].cells(secure.vocabulary))
    inputs = {"active": np.empty(0, np.int64)}
    total, counted = cohort.sum_once(name, secure.figures[name], size, inputs, released)
    released.add_figure(name, total, len(counted))


def evaluate(model: Tensor, cohort: Cohort, released: ReleasedSums) -> None:
    """Ask how good a model is, and beside it the one that it may take the place of, and keep the sum.

    Args:
        model: What has come out of the run, shape (D + P,).
        cohort: Who is asked.
        released: Where the sum is kept.

    Raises:
        VoidRoundError: If there is no sum.
    """
    secure = cohort.secure
    inputs, beside = {"parameters": model.numpy()}, ""
    other = cohort.job.beside()
    if other is not None and len(other.parameters) == len(model):
        inputs["beside"], beside = other.parameters.numpy(), other.digest
    size = Sheet(secure.partners, len(inputs)).size
    total, counted = cohort.sum_once("evaluation", secure.figures["evaluation"], size, inputs, released)
    released.add_evaluation(total, counted, beside)
