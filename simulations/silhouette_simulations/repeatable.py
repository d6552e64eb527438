"""Bytes that stand in for a partner's secret ones in a simulation on public data.

The only place where the noise of a private mode can be given a seed. A partner installs `client` and `shared`, which
hold no such thing; what a simulation prints is what a deployment would give with other noise.
"""

import builtins

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from silhouette_shared.randomness import ReproducibleSource


class RepeatableBytes:
    """AES-256 in counter mode, as `SecureSource`, under a key that a seed and a path of names give.

    >>> source = ReproducibleSource(7).child("noise")
    >>> RepeatableBytes(source).bytes(4) == RepeatableBytes(source).bytes(4)
    True
    """

    def __init__(self, source: ReproducibleSource) -> None:
        key = source.numpy_generator().bytes(32)
        self._stream = Cipher(algorithms.AES(key), modes.CTR(builtins.bytes(16))).encryptor()

    def bytes(self, count: int) -> builtins.bytes:
        """The next `count` bytes of the stream."""
        return self._stream.update(builtins.bytes(count))
