"""An honest trainer raises no alarm, whatever the draws: 20 seeds, some 20 minutes on one core."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.client.audit.small import WHOLE, audited

from silhouette_shared.privacy.audit import judge


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_seeds_pass_without_a_false_alarm(seed: int) -> None:
    verdict = judge(audited(replace(WHOLE, seed=seed), seed=seed).evidence)
    assert verdict.passed, {gate.name: gate.failures for gate in verdict.gates if not gate.passed}
