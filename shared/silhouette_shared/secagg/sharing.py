"""Shamir's secret sharing over the prime field of 2**521 - 1.

Shamir, How to share a secret, CACM 22 (1979). The field is larger than a 32-byte secret, so a secret is one element and
a share one more; below the threshold, shares are independent of the secret. A wrong share gives a wrong secret, not an
error: who reconstructs checks the result against what its owner committed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.randomness import SecretBytes

PRIME = (1 << 521) - 1
SECRET_BYTES = 32
SHARE_BYTES = 66  # 521 bits


class ShareError(IntegrityError):
    """Shares that no secret of 32 bytes was split into."""


def split(secret: bytes, threshold: int, count: int, source: SecretBytes) -> tuple[bytes, ...]:
    """Split a secret into `count` shares, any `threshold` of which give it back.

    Args:
        secret: 32 bytes.
        threshold: From 1 to `count`.
        count: How many shares; the share of holder k (from 1) is the polynomial's value at k.
        source: Where the coefficients come from.

    Returns:
        The shares of holders 1 to `count`, 66 bytes each.

    Raises:
        UsageError: If sizes do not fit.

    >>> from silhouette_shared.randomness import SecureSource
    >>> shares = split(bytes(range(32)), 2, 3, SecureSource())
    >>> join({1: shares[0], 3: shares[2]}) == bytes(range(32))
    True
    """
    if len(secret) != SECRET_BYTES:
        raise UsageError(f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}; split it differently")
    if not 1 <= threshold <= count:
        raise UsageError(f"expected a threshold from 1 to {count}, got {threshold}; change it")
    coefficients = [int.from_bytes(secret, "big"), *(_element(source) for _ in range(threshold - 1))]
    shares = []
    for holder in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * holder + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return tuple(shares)


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret from as many shares as its threshold, by interpolation at zero.

    Args:
        shares: Holder (from 1) to share.

    Returns:
        32 bytes; the right ones only if every share is, which the caller checks.

    Raises:
        ShareError: If a share is no field element, or the result is no secret of 32 bytes.
    """
    weights = _weights(tuple(shares))
    secret = sum(weight * _value(share) for weight, share in zip(weights, shares.values(), strict=True)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ShareError("expected shares of one secret, got shares that do not belong together; discard the round")
    return secret.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=8)
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's basis polynomials at zero; the same holders open the shares of every dealer."""
    weights = []
    for holder in holders:
        above, below = 1, 1
        for other in holders:
            if other != holder:
                above = above * other % PRIME
                below = below * (other - holder) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def _element(source: SecretBytes) -> int:
    """A uniform field element: 521 bits, the one value that is not an element drawn again."""
    while True:
        value = int.from_bytes(source.bytes(SHARE_BYTES), "big") & PRIME
        if value != PRIME:
            return value


def _value(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ShareError(f"expected a field element of {SHARE_BYTES} bytes, got another; discard the round")
    return value
