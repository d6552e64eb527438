"""Questions to the encoder that one run does not answer: each trains what it needs and ends in one table.

`STUDIES` names them; a study is a function from a `Bench` to a `StudyTable`, in the module of its name.
"""

from silhouette_simulations.studies.base import SEVERAL_SEEDS, STUDIES, StudyName

__all__ = ["SEVERAL_SEEDS", "STUDIES", "StudyName"]
