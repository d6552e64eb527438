"""How many partners a round of secure aggregation needs, and how many of them may be dishonest.

Bonawitz et al. 2017, theorem 6.5: against a coordinator that lies and f partners that help it, any two sets of t
partners have to share an honest one.
"""


def colluders(partners: int) -> int:
    """How many dishonest partners a round of `partners` withstands beside a hostile coordinator: f, a third.

    >>> [colluders(n) for n in (3, 5, 10, 50)]
    [1, 1, 3, 16]
    """
    return partners // 3


def least_threshold(partners: int) -> int:
    """The least threshold t with 2t > n + f.

    >>> [least_threshold(n) for n in (3, 4, 5, 10, 50)]
    [3, 3, 4, 7, 34]
    """
    return (partners + colluders(partners)) // 2 + 1
