"""The two sources of randomness, as two types that cannot stand in for each other.

`ReproducibleSource` is for shuffling, initialisation and simulations: the same
seed and path give the same draws on every machine. `SecureSource` is for keys,
masks, released noise and the sampling of users in private modes: it takes no
seed. A function that draws asks for the one it needs, so a type checker refuses
the other. Library code never uses a global generator.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from cryptography.hazmat.primitives.ciphers import CipherContext

_DOMAIN = b"silhouette reproducible source 1"
_MT19937_WORDS = 624
# torch keeps a CPU generator as a C structure: the seed, `left` and `seeded`, `next`, then the
# words as 64-bit integers, then what is left of a Gaussian pair (ATen, CPUGeneratorImpl.cpp).
_TORCH_STATE_BYTES = 5056
_TORCH_WORDS_AT = 24
# What the cipher turns into its stream; kept, because making half a megabyte of zeros costs a quarter of encrypting it.
_ZEROS = memoryview(bytes(2**19))
_PIECE = 2**16  # of it at a time, where the result is wanted in the cache too


@dataclass(frozen=True)
class ReproducibleSource:
    """A seed and a path of names, from which independent streams are derived.

    Two sources give the same draws exactly when seed and path are equal: the path
    is framed injectively (`"a", "b"` is not `"ab"`, `1` is not `"1"`) and hashed
    with SHA-256. Asking for a generator twice gives two generators that start at
    the same place; take another child for another stream.

    Args:
        seed: Any non-negative integer.
        path: Names on the way here; use `child` rather than passing it.

    Raises:
        ValueError: If the seed is not a non-negative integer, or a name is neither
            text nor an integer.

    >>> source = ReproducibleSource(7)
    >>> source.child("partner-0", 3) == source.child("partner-0").child(3)
    True
    >>> int(source.child("shuffle").numpy_generator().integers(1000))
    448
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be framed, `True` included, which Python counts as 1."""
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"expected a non-negative integer as seed, got {self.seed!r}")
        for name in self.path:
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError(f"expected text or an integer as name, got {name!r}")

    def child(self, *names: str | int) -> ReproducibleSource:
        """Derive the source that lies under `names`, independent of this one and its siblings."""
        return ReproducibleSource(self.seed, (*self.path, *names))

    def torch_generator(self, device: str | torch.device = "cpu") -> torch.Generator:
        """Make a torch generator at the start of this stream.

        On the CPU the whole Mersenne Twister state is filled: `manual_seed` keeps only
        32 bits of a seed, so that two of 100,000 streams would likely be the same. Other
        devices take a 64-bit seed. Draws differ between kinds of device.

        Args:
            device: Where the draws will be made.
        """
        return _filled_generator(self._expand, device)

    def numpy_generator(self) -> np.random.Generator:
        """Make a NumPy PCG64 generator at the start of this stream, from 256 bits."""
        import numpy as np  # here, so that the command line starts without numpy

        return np.random.Generator(np.random.PCG64(int.from_bytes(self._expand(32), "little")))

    def number(self) -> int:
        """The first 63 bits of this stream, for a function that takes a seed."""
        return int.from_bytes(self._expand(8), "little") >> 1

    def _expand(self, count: int) -> bytes:
        framed = b"".join(_frame(part) for part in (self.seed, *self.path))
        key = hashlib.sha256(_DOMAIN + framed).digest()
        return hashlib.shake_256(key).digest(count)


def unpredictable_generator(secret: SecretBytes, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a torch generator in a state that nobody else can know: its state is filled with secret bytes.

    For windows, hiding and dropout of a private step. Not for released noise: what a Mersenne Twister gave tells its
    state, so nothing that it gave may leave.

    Args:
        secret: Where the state comes from.
        device: Where the draws will be made.
    """
    return _filled_generator(secret.bytes, device)


def _filled_generator(take: Callable[[int], builtins.bytes], device: str | torch.device) -> torch.Generator:
    """A generator whose 64-bit seed, and on the CPU whose whole Mersenne Twister state, is what `take` gives."""
    import torch  # here, so that the command line starts without torch

    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(take(8), "little"))
    if generator.device.type != "cpu":
        return generator
    state = generator.get_state()
    if state.numel() != _TORCH_STATE_BYTES:
        raise RuntimeError(
            f"expected a CPU generator state of {_TORCH_STATE_BYTES} bytes, got "
            f"{state.numel()}; this torch {torch.__version__} is not supported"
        )
    words = torch.frombuffer(bytearray(take(4 * _MT19937_WORDS)), dtype=torch.uint8).view(_MT19937_WORDS, 4)
    end = _TORCH_WORDS_AT + 8 * _MT19937_WORDS
    # Each word sits in the low half of eight bytes; the high half stays zero.
    state[_TORCH_WORDS_AT:end].view(_MT19937_WORDS, 8)[:, :4] = words
    generator.set_state(state)
    return generator


def _zeros(count: int) -> builtins.bytes | memoryview:
    return _ZEROS[:count] if count <= len(_ZEROS) else builtins.bytes(count)


def _frame(part: str | int) -> bytes:
    """Write type, length and content, so that no two sequences give the same bytes."""
    kind, content = (b"s", part) if isinstance(part, str) else (b"i", str(part))
    # surrogatepass: a name made from undecodable bytes is still a name, and distinct.
    encoded = content.encode("utf-8", "surrogatepass")
    return kind + len(encoded).to_bytes(8, "big") + encoded


class SecretBytes(Protocol):
    """Where released noise and the sampling of people take their bytes from.

    `SecureSource` is the only one that the partner's and the shared package hold. A simulation on public data brings a
    repeatable one of its own, which exists nowhere a partner installs.
    """

    def bytes(self, count: int) -> builtins.bytes:
        """Return the next `count` bytes, never given before."""
        ...


class SecureSource:
    """An unpredictable stream of bytes: AES-256 in counter mode under a key of `os.urandom`.

    It takes no seed and cannot be copied or pickled, and a forked child draws a new
    key: the same bytes never serve twice. Safe to share between threads.

    AES-CTR as a generator: NIST SP 800-38A, section 6.5.

    >>> len(SecureSource().bytes(16))
    16
    """

    __slots__ = ("_lock", "_process", "_stream")

    def __init__(self) -> None:
        """Draw a fresh key from the operating system."""
        self._lock = threading.Lock()
        self._rekey()

    def bytes(self, count: int) -> builtins.bytes:
        """Return the next `count` bytes of the stream.

        Args:
            count: How many, zero or more.

        Raises:
            ValueError: If `count` is negative.
        """
        if count < 0:
            raise ValueError(f"expected a count of zero or more, got {count}")
        with self._own():
            return self._stream.update(_zeros(count))

    def write(self, count: int, place: npt.NDArray[np.uint8]) -> None:
        """Write the next `count` bytes of the stream to the start of `place`, for whoever draws many times.

        Args:
            count: How many, zero or more.
            place: Shape (`count`,) or larger.

        Raises:
            ValueError: If there is too little room; then nothing was drawn.
        """
        if not 0 <= count <= len(place):
            raise ValueError(f"expected room for {count} bytes, zero or more, got {len(place)}")
        with self._own():
            for start in range(0, count, _PIECE):
                end = min(count, start + _PIECE)
                self._stream.update_into(_ZEROS[: end - start], place[start:end].data)

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Hold the stream of this process for one thread."""
        if os.getpid() != self._process:
            # The lock of a forked child may have been held by a thread that does not exist here.
            self._lock = threading.Lock()
            self._rekey()
        with self._lock:
            yield

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: two copies would give the same bytes."""
        raise TypeError("a SecureSource cannot be copied or pickled; make a new one")

    def _rekey(self) -> None:
        # The key is fresh and used for this one stream, so the counter may start at zero.
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(builtins.bytes(16)))
        self._stream: CipherContext = cipher.encryptor()
        self._process = os.getpid()
