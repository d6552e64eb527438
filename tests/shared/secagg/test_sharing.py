"""Any threshold of shares gives the secret back, fewer say nothing, a wrong one is noticed by whoever checks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shared.secagg.house import RepeatableBytes

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.sharing import PRIME, SHARE_BYTES, ShareError, join, split

secrets = st.binary(min_size=32, max_size=32)


class Coefficients:
    """A source that gives chosen field elements."""

    def __init__(self, *values: int) -> None:
        self._values = list(values)

    def bytes(self, count: int) -> bytes:
        return self._values.pop(0).to_bytes(count, "big")


def test_the_modulus_is_the_mersenne_prime_that_fips_186_uses() -> None:
    assert PRIME == 2**521 - 1
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7))


def test_shares_are_the_values_of_the_polynomial() -> None:
    """f(x) = 1234 + 166 x + 94 x^2, the worked example that is usual for the scheme."""
    shares = split((1234).to_bytes(32, "big"), 3, 6, Coefficients(166, 94))
    values = [1494, 1942, 2578, 3402, 4414, 5614]
    assert [int.from_bytes(share, "big") for share in shares] == values
    assert int.from_bytes(join({2: shares[1], 4: shares[3], 5: shares[4]}), "big") == 1234


@given(secrets, st.integers(1, 7), st.integers(0, 3), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int, random: object) -> None:
    count = threshold + more
    shares = split(secret, threshold, count, RepeatableBytes(secret, threshold))
    assert {len(share) for share in shares} == {SHARE_BYTES}
    for chosen in itertools.islice(itertools.permutations(range(1, count + 1), threshold), 20):
        assert join({holder: shares[holder - 1] for holder in chosen}) == secret


def test_one_share_less_fits_every_secret() -> None:
    """For t - 1 shares and any secret there is exactly one polynomial: they say nothing."""
    shares = split(b"a" * 32, 3, 5, RepeatableBytes(0))
    held = {1: shares[0], 4: shares[3]}
    for secret in (b"a" * 32, b"b" * 32, bytes(32)):
        # Interpolate through zero and the two shares, to the share of holder 2.
        points = {0: int.from_bytes(secret, "big"), **{at: int.from_bytes(share, "big") for at, share in held.items()}}
        value = 0
        for at, found in points.items():
            weight = found
            for other in points:
                if other != at:
                    weight = weight * (2 - other) * pow(at - other, -1, PRIME) % PRIME
            value += weight
        third = (value % PRIME).to_bytes(SHARE_BYTES, "big")
        assert join({**held, 2: third}) == secret


def test_fewer_shares_or_a_wrong_one_do_not_give_the_secret() -> None:
    secret = b"s" * 32
    shares = split(secret, 4, 5, RepeatableBytes(1))
    wrong = shares[2][:-1] + bytes([shares[2][-1] ^ 1])
    for held in ({1: shares[0], 2: shares[1], 3: shares[2]}, {1: shares[0], 2: shares[1], 3: wrong, 4: shares[3]}):
        try:
            assert join(held) != secret
        except ShareError as error:
            assert "expected shares of one secret" in str(error)  # noqa: PT017 - either is right


def test_shares_do_not_repeat_and_look_uniform() -> None:
    """The top bit of the field is set in about half of all shares, whatever the secret: 5 standard deviations."""
    source = RepeatableBytes(2)
    shares = [share for _ in range(200) for share in split(bytes(32), 3, 5, source)]
    assert len(set(shares)) == 1000
    top = sum(share[0] & 1 for share in shares)
    assert abs(top - 500) < 5 * 1000**0.5 / 2


def test_the_one_value_that_is_no_field_element_is_drawn_again() -> None:
    again = split(bytes(32), 2, 2, Coefficients(PRIME, 5))
    assert [int.from_bytes(share, "big") for share in again] == [5, 10]
    # Bits above 521 are cut off, not reduced.
    above = split(bytes(32), 2, 2, Coefficients((1 << 521) | 5))
    assert above == again


@pytest.mark.parametrize("share", [b"", bytes(65), bytes(67), PRIME.to_bytes(66, "big"), b"\xff" * 66])
def test_what_is_no_field_element_is_refused(share: bytes) -> None:
    with pytest.raises(ShareError, match="expected a field element of 66 bytes"):
        join({1: share, 2: bytes(66)})


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(bytes(31), 1, 1), (bytes(33), 1, 1), (bytes(32), 0, 3), (bytes(32), 4, 3)]
)
def test_sizes_that_do_not_fit_are_refused(secret: bytes, threshold: int, count: int) -> None:
    with pytest.raises(UsageError, match="expected a"):
        split(secret, threshold, count, RepeatableBytes(0))
