"""The receipt of a charge: the one thing that lets noise be drawn and a release be made.

Only the ledger makes one, after the charge is on the disk and a witness has been shown it, and it serves once. What
draws noise takes a receipt and redeems it first, with the mechanism it is about to run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn

from silhouette_shared.privacy.ledger import BudgetRefusedError, Charge, Head, Reason
from silhouette_shared.privacy.mechanism import SampledGaussian

LEDGER_ONLY = object()
"""What a receipt is made with. Only `ledger_store` may import it; a test reads every file of the house for it."""


class Receipt:
    """Proof that one release was charged. It cannot be copied or pickled, and serves in the process that got it.

    Args:
        token: `LEDGER_ONLY`.
        charge: What was charged.
        head: The ledger's entry of it.
        confirm: Makes sure that the witness still holds that entry; raises if it does not.

    Raises:
        TypeError: If somebody other than the ledger makes it.
    """

    __slots__ = ("_charge", "_confirm", "_head", "_lock", "_process", "_used")

    def __init__(self, token: object, *, charge: Charge, head: Head, confirm: Callable[[], None]) -> None:
        if token is not LEDGER_ONLY:
            raise TypeError("expected the ledger to make a receipt, got somebody else; call Ledger.charge")
        self._charge = charge
        self._head = head
        self._confirm = confirm
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._used = False

    @property
    def charge(self) -> Charge:
        """What was charged."""
        return self._charge

    @property
    def head(self) -> Head:
        """The ledger's entry of this charge, for the round messages."""
        return self._head

    @property
    def used(self) -> bool:
        """Whether it has served."""
        return self._used

    def redeem(self, mechanism: SampledGaussian) -> None:
        """Use the receipt, before noise is drawn. Whoever returns from here may make this one release.

        Args:
            mechanism: What is about to be run; it has to be what was charged.

        Raises:
            BudgetRefusedError: If it was used before, is in another process, or another mechanism was charged.
            UnavailableError: If no witness answers; it may be tried again.
            IntegrityError: If the witness has not seen the charge, or has seen another ledger.
        """
        with self._lock:
            where = f"round {self._charge.round} ({self._charge.purpose})"
            if self._used:
                raise BudgetRefusedError(
                    f"expected a receipt that was not used, got the one of {where} a second time; charge a new round",
                    Reason.receipt,
                )
            if self._process != os.getpid():
                raise BudgetRefusedError(
                    f"expected the receipt of {where} in the process that charged it, got it in another; "
                    "charge a new round there",
                    Reason.receipt,
                )
            if mechanism != self._charge.mechanism:
                raise BudgetRefusedError(
                    f"expected the mechanism that {where} was charged for, {self._charge.mechanism}, got {mechanism}; "
                    "charge what is run",
                    Reason.receipt,
                )
            self._confirm()
            self._used = True

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: two copies would serve twice."""
        raise TypeError("a receipt cannot be copied or pickled; charge again")
