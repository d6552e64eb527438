"""Each gate lets honest evidence through and stops at what it is there for, and at nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.shared.privacy.audit.evidences import (
    CLEAN_MOMENTS,
    DECLARED,
    canaries,
    counted,
    evidence,
    generator,
    presence,
    with_correlations,
    with_noise,
    with_norms,
    with_sampling,
)

from silhouette_shared.privacy.audit.evidence import Epsilons, Evidence
from silhouette_shared.privacy.audit.gates import AUDITED, GATES, Check, judge


@pytest.mark.parametrize("seed", range(20))
def test_honest_evidence_passes(seed: int) -> None:
    verdict = judge(evidence(seed))
    assert verdict.passed, verdict.failed
    assert tuple(gate.name for gate in verdict.gates) == GATES


FAULTS: dict[str, tuple[str, Evidence]] = {
    "too few people": ("clipping", with_norms(alone=999)),
    "nobody with one item": ("clipping", with_norms(one_item=0)),
    "nobody with a repeated item": ("clipping", with_norms(repeated=0)),
    "nobody with the longest history": ("clipping", with_norms(longest=0)),
    "nothing to clip": ("clipping", with_norms(clipped=499)),
    "norm above the bound": ("clipping", with_norms(largest_alone=1.00002)),
    "another gradient": ("clipping", with_norms(difference_alone=0.002)),
    "others change it": ("neighbours", with_norms(difference_together=0.002)),
    "one person moves the sum too far": ("neighbours", with_norms(largest_neighbour=1.01)),
    "noise 1 % low": ("noise", with_noise(untouched=replace(CLEAN_MOMENTS, square=0.98))),
    "noise 1 % high, inside the sums": ("noise", with_noise(everywhere=replace(CLEAN_MOMENTS, square=1.02))),
    "noise with a mean": ("noise", with_noise(untouched=replace(CLEAN_MOMENTS, mean=0.01))),
    "noise of another shape": ("noise", with_noise(untouched=replace(CLEAN_MOMENTS, fourth=1.8))),
    "a silent row": ("noise", with_noise(least_row=0.0, row_tail=0.0)),
    "a row with less": ("noise", with_noise(row_tail=1e-7)),
    "few coordinates": ("noise", with_noise(untouched=replace(CLEAN_MOMENTS, samples=999_999))),
    "next step alike": ("independence", with_correlations(adjacent=0.011)),
    "two steps alike": ("independence", with_correlations(largest_steps=1.0)),
    "partners alike": ("independence", with_correlations(partners=0.5)),
    "partners alike at another time": ("independence", with_correlations(largest_partners=0.5)),
    "a stretch twice in one release": ("independence", with_correlations(largest_inside=0.1)),
    "shuffled epochs": ("sampling", with_sampling("shuffled")),
    "fixed size": ("sampling", with_sampling("fixed size")),
    "shuffled, with sizes that vary": ("sampling", with_sampling("shuffled, Poisson sizes")),
    "accountants apart": ("accounting", replace(evidence(), epsilons={AUDITED: Epsilons(prv=5.0, pld=4.97, rdp=5.6)})),
    "above RDP": ("accounting", replace(evidence(), epsilons={AUDITED: Epsilons(prv=5.0, pld=4.99, rdp=4.999)})),
    "clipped to 1.2": ("shift", replace(evidence(), canaries=canaries(norm=1.2))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_stops_at_its_gate_and_at_no_other(fault: str) -> None:
    gate, found = FAULTS[fault]
    assert judge(found).failed == (gate,)


def test_a_claim_far_below_the_truth_stops_at_the_bounds() -> None:
    found = replace(evidence(), epsilons={AUDITED: Epsilons(prv=0.3, pld=0.3, rdp=0.4)})
    assert judge(found).failed == ("bounds",)


def test_canaries_over_half_the_noise_stop_at_the_shift_and_lift_the_bounds() -> None:
    verdict = judge(replace(evidence(), canaries=canaries(noise=0.5)))
    assert verdict.failed == ("shift", "bounds")
    assert verdict.bounds.gaussian > verdict.bounds.claimed > verdict.bounds.one_run


def test_a_rate_other_than_the_declared_one_stops_at_sampling() -> None:
    found = replace(evidence(), declared=replace(DECLARED, sampling_rate=0.11))
    assert "sampling" in judge(found).failed


def test_everybody_in_each_step_is_recognised_at_rate_one() -> None:
    full = np.ones_like(presence(generator(1)))
    declared = replace(DECLARED, sampling_rate=1.0)
    gate = judge(replace(evidence(), declared=declared, sampling=counted(full, full))).gate("sampling")
    assert gate.passed
    full[3, 7] = False
    gate = judge(replace(evidence(), declared=declared, sampling=counted(full, full))).gate("sampling")
    assert not gate.passed


def test_two_partners_with_one_sample_between_them_stop_at_sampling() -> None:
    here = presence(generator(2))
    verdict = judge(replace(evidence(), sampling=counted(here, here)))
    assert verdict.gate("sampling").failures == ("people in the same step at two partners, z",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_passes_no_check(value: float) -> None:
    assert not Check("anything", value).passed
