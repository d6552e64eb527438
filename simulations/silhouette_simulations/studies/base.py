"""Which studies there are. Nothing heavy is imported here: the command reads it for its help."""

from typing import Final, Literal, get_args

StudyName = Literal["heads", "risk", "social", "traits", "continuation", "ablation", "personal", "texts"]

STUDIES: Final[dict[StudyName, str]] = {
    "heads": "conversion and churn against logistic regression on recency, frequency and value",
    "risk": "planted odd histories, and how many ordinary people look odder",
    "social": "friends at the same partner, no friends, and friends drawn at random",
    "traits": "definitions of the named traits, and each against later events of the same people",
    "continuation": "ten generated events against popularity and transition counts",
    "ablation": "the encoder without each dimension, each behaviour, each part of its tokens",
    "personal": "what fine-tuning local parameters gives each partner",
    "texts": "planted words of people and of items: read and not read",
}
"""What each study asks."""

SEVERAL_SEEDS: Final[frozenset[StudyName]] = frozenset({"social", "ablation", "personal", "texts"})
"""Studies that take the mean over several seeds, person by person, before they compare."""

assert set(STUDIES) == set(get_args(StudyName))  # noqa: S101 - two lists of one thing
