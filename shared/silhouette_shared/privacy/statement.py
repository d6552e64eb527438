"""The privacy statement of a run: what is promised to whom, and where the promise ends.

The caller passes facts; only epsilon is computed here, by `accounting` from the mechanisms that drove the run. What
should be said follows Ponomareva et al. 2023, How to DP-fy ML, section 5.3.3 (https://arxiv.org/abs/2303.00654), and
the questions of NIST SP 800-226 (https://doi.org/10.6028/NIST.SP.800-226), each with a row: the answer, and what in the
run or the code an examiner may look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import epsilon, epsilons, split
from silhouette_shared.privacy.grid import float32_summing
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.modes import View, at_partners, distributed_view, local_view
from silhouette_shared.thresholds import colluders

VERSION = 1

UNIT = "one person's whole record at a partner"
NEIGHBOURS = "data sets that differ by adding or removing one person"


@dataclass(frozen=True)
class Release:
    """One kind of release that the budget pays.

    Args:
        purpose: What it is for, such as "training" or "item popularity".
        mechanism: What drove it.
    """

    purpose: str
    mechanism: SampledGaussian


@dataclass(frozen=True)
class Audit:
    """What an audit of the same code and settings found.

    Args:
        passed: Whether every gate was passed.
        lower_bound: The largest lower bound on epsilon that was found, None if none was looked for.
        reference: Where the signed result lies, or its digest.
    """

    passed: bool
    lower_bound: float | None
    reference: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a statement rests on, all of it known to the caller.

    Args:
        run: Name of the run.
        plan_digest: Of its plan.
        software: Name and version of what ran.
        mode: "local" or "distributed"; "none" for a run without privacy.
        releases: Everything that the budget pays, in order; empty without privacy.
        delta: For every epsilon.
        partners: In the federation.
        steps_a_round: Noised steps between two releases.
        simulation: Whether the noise follows from the plan's seed and the data are public.
        secure_noise: Whether noise and sampling came from a cryptographic source.
        secure_aggregation: Whether the coordinator saw sums only.
        ledger: Head of the chain in which every release was charged before it was made; empty if there is none.
        audit: Of this software and these settings; None if there was none.
        beside: Releases that are not private, each as a sentence, such as exact metrics of a simulation.
    """

    run: str
    plan_digest: str
    software: str
    mode: str
    releases: Sequence[Release]
    delta: float
    partners: int
    steps_a_round: int
    simulation: bool
    secure_noise: bool
    secure_aggregation: bool
    ledger: str = ""
    audit: Audit | None = None
    beside: Sequence[str] = ()


@dataclass(frozen=True)
class Statement:
    """A statement for programs (plain JSON values) and for people (Markdown)."""

    document: dict[str, object]
    markdown: str


def privacy_statement(facts: Facts) -> Statement:
    """Say what a run promises.

    Raises:
        UsageError: If a private mode comes without releases or the mode `none` with some, or an epsilon cannot be
            computed.
    """
    private = facts.mode != "none"
    if private != bool(facts.releases):
        raise UsageError(
            f"expected releases exactly where there is privacy, got mode {facts.mode} and {len(facts.releases)}; "
            "name every release that the budget pays"
        )
    document: dict[str, object] = {
        "version": VERSION,
        "run": facts.run,
        "plan_digest": facts.plan_digest,
        "software": facts.software,
        "mode": facts.mode,
        "simulation": facts.simulation,
        "private": private,
        "summary": _summary(facts),
        "unit": UNIT if private else "none",
        "neighbours": NEIGHBOURS if private else "none",
        "guarantee": _guarantee(facts) if private else None,
        "releases": [{"purpose": release.purpose, **release.mechanism.describe()} for release in facts.releases],
        "contribution_bound": _contribution(facts),
        "sampling": _sampling(facts),
        "assumptions": _assumptions(facts) if private else [],
        "trusted": _trusted(facts),
        "not_covered": _not_covered(facts),
        "audit": None if facts.audit is None else vars(facts.audit),
        "ledger": facts.ledger or None,
    }
    document["nist_sp_800_226"] = _questions(facts, document)
    return Statement(document, _markdown(document))


def _summary(facts: Facts) -> str:
    if facts.mode == "none":
        return (
            "No privacy. No noise was added, so the model may hold traces of single people. Fit for public data only; "
            "a partner's policy refuses this mode."
        )
    warning = (
        " This is a simulation on public data: its noise and sampling are repeatable from the plan's seed, so whoever "
        "knows the seed can take the noise away. The figures say what a deployment of the same plan would promise; "
        "this run promises nobody anything."
        if facts.simulation
        else ""
    )
    spent = epsilon(_spending(facts), facts.delta)
    return (
        f"Whatever anybody concludes from what a partner released in this run, one person's record changes its odds by "
        f"at most a factor of e^{spent:.3g}, except with a probability of about {facts.delta:g}.{warning}"
    )


def _spending(facts: Facts) -> tuple[SampledGaussian, ...]:
    return tuple(release.mechanism for release in facts.releases)


def _guarantee(facts: Facts) -> dict[str, object]:
    spending, delta = _spending(facts), facts.delta
    found = epsilons(spending, delta)
    parts = split(spending, delta, found["pld"])
    try:
        twice: float | None = epsilon(at_partners(spending, 2), delta)
    except UsageError:
        twice = None  # too large for this delta, which the table says in words
    view: View
    if facts.mode == "distributed":
        view = distributed_view(spending, facts.partners, delta)
    else:
        view = local_view(spending, facts.partners, delta, steps_a_round=facts.steps_a_round)
        if not facts.secure_aggregation:
            view = View(release=view.release, honest=None, everybody=None)
    return {
        "epsilon": found["pld"],
        "delta": delta,
        "accountants": found,
        "delta_parts": {"accountants": parts.formula, "batch_cap": parts.overflow, "arithmetic": parts.sampler},
        "epsilon_of_arithmetic": parts.epsilon,
        "by_view": vars(view),
        "person_at_two_partners": twice,
    }


def _contribution(facts: Facts) -> str:
    if facts.mode == "none":
        return "none"
    return (
        "One training example is one person. Each person's gradient is clipped to the clip norm before it is summed, "
        "so events repeated any number of times change neither the bound nor epsilon; a gradient that is not finite "
        "adds nothing."
    )


def _sampling(facts: Facts) -> str:
    if facts.mode == "none":
        return "none"
    source = (
        "bytes of AES-256 in counter mode under a key of the operating system"
        if facts.secure_noise
        else "a stream that follows from the plan's seed"
    )
    return (
        "Poisson: in every step each person takes part independently with the sampling rate, drawn from "
        f"{source}; sums are divided by the expected, never the actual number; empty samples are noised and charged."
    )


def _assumptions(facts: Facts) -> list[dict[str, object]]:
    """What the accountants take for granted, and whether it holds in this run."""
    mechanisms = _spending(facts)
    gridded = all(mechanism.grid_step for mechanism in mechanisms)
    capped = [mechanism for mechanism in mechanisms if mechanism.batch_cap is not None]
    rows: list[tuple[str, bool, str]] = [
        ("People are Poisson-sampled, not shuffled", True, "the sampler is tested against fixed sizes and other rates"),
        (
            "Who takes part is hidden from everybody else",
            facts.secure_noise,
            "drawn from a cryptographic source at the partner"
            if facts.secure_noise
            else "follows from the plan's seed",
        ),
        ("Every person's contribution is clipped", True, "norms are tested against plain automatic differentiation"),
        ("Every trainable coordinate of every sum gets noise of its own", True, "touched by anybody or not"),
        (
            "Noise is unpredictable and never used twice",
            facts.secure_noise,
            "AES-256 in counter mode, keyed by the operating system"
            if facts.secure_noise
            else "repeatable from the plan's seed, by intent; streams differ between partners and rounds",
        ),
        (
            "Released numbers do not show the low bits of floating-point noise",
            gridded,
            "sums are rounded to an integer grid before the noise, the noise to integers; what both cost is charged"
            if gridded
            else "the noise is added in floating point; low bits may tell more than epsilon says",
        ),
        (
            "Samples are taken whole",
            True,
            "; ".join(
                f"a cap of {m.batch_cap} is passed with probability {m.overflow:.1g} a step, charged to delta"
                for m in capped
            )
            or "there is no cap",
        ),
        (
            "What was spent before on the same people is counted",
            bool(facts.ledger),
            f"charged before every release, ledger head {facts.ledger}"
            if facts.ledger
            else "this run alone is counted; nothing adds up several runs",
        ),
    ]
    return [{"assumption": text, "holds": holds, "because": reason} for text, holds, reason in rows]


def _trusted(facts: Facts) -> list[str]:
    if facts.mode == "none":
        return ["everybody who sees an update or the model"]
    own = "The partner itself: its machine, its installed software, and that it limits who reads its data."
    if facts.mode == "local":
        return [
            own,
            "Nobody outside the partner: it adds all the noise that its own people need before anything leaves.",
        ]
    f = colluders(facts.partners)
    return [
        own,
        f"Secure aggregation, and that at most {f} of {facts.partners} partners are curious: each adds a share of "
        "the noise, and the shares of the honest survivors make it up.",
        "That other partners add their share. A partner that adds none is not noticed by the others.",
    ]


def _not_covered(facts: Facts) -> list[str]:
    said = [
        "Profiles, recommendations and whatever else is served at the partner: computed from the person's own record, "
        "for that partner, and not differentially private.",
        "Choosing settings by looking at these people: every further run on them, and keeping the best, costs as well.",
        "The number of a partner's people, or the bound on it that is public: it weighs updates and sizes samples.",
        "That a partner takes part, in which rounds, and when.",
        "A person at several partners: each spends on that person, and the epsilons compose.",
        "How float32 rounds while clipped gradients are computed and added up. With n people in a step, adding up "
        "moves two neighbouring sums apart by at most n (n + 2) 2^-23 clip norms: "
        f"{float32_summing(100):.1g} for 100 people, {float32_summing(1000):.1g} for 1,000. "
        "`silhouette plan price --people N` says what it would cost.",
        "What can be concluded about people in general. It is what is to be learned, and holds without any single one.",
    ]
    if facts.simulation:
        said.append("This run itself: noise and sampling are repeatable from the plan's seed, and the data are public.")
    return [*said, *facts.beside]


def _questions(facts: Facts, document: dict[str, object]) -> list[dict[str, str]]:
    """The questions that NIST SP 800-226 wants asked of a claim, from the top of its pyramid to the bottom."""
    private = facts.mode != "none"
    nothing = "No claim is made."

    def row(question: str, answer: str, evidence: str) -> dict[str, str]:
        return {"question": question, "answer": answer, "evidence": evidence}

    audit = "No audit of this software and these settings is recorded."
    if facts.audit is not None:
        bound = facts.audit.lower_bound
        shown = f"; largest lower bound on epsilon {bound:.3g}" if bound is not None else ""
        audit = f"{'Passed' if facts.audit.passed else 'FAILED'}{shown} ({facts.audit.reference})."
    guarantee = document["guarantee"]
    figures = nothing
    if isinstance(guarantee, dict):
        figures = f"epsilon {guarantee['epsilon']:.3f} at delta {facts.delta:g} for the whole run."
    grid = "charged" if all(m.grid_step for m in _spending(facts)) else "not on a grid: for simulations only"
    return [
        row("Privacy parameters: what are epsilon and delta, and for what?", figures, "`guarantee`"),
        row(
            "Is epsilon small enough for the purpose?",
            "There is no universal threshold. The factor on the odds is in the summary; the partner's policy sets a "
            "limit for a run and for a year."
            if private
            else nothing,
            "`summary`, `silhouette plan price`",
        ),
        row(
            "Unit of privacy: who is protected, and as what?",
            f"{UNIT[0].upper()}{UNIT[1:]}; at several partners the guarantees compose." if private else nothing,
            "`unit`, `guarantee.person_at_two_partners`",
        ),
        row("Neighbouring data sets: what may differ?", f"{NEIGHBOURS}." if private else nothing, "`neighbours`"),
        row(
            "Mechanism: which, with which sensitivity and bound on contributions?",
            "Poisson-sampled Gaussian on clipped per-person gradients; the grid's rounding is part of the sensitivity."
            if private
            else nothing,
            "`releases`, `contribution_bound`",
        ),
        row(
            "Composition: what else was released about the same people?",
            f"{len(facts.releases)} kind(s) of release are composed here by three accountants. "
            + ("All runs are in the ledger." if facts.ledger else "Other runs are not counted.")
            if private
            else nothing,
            "`releases`, `guarantee.accountants`, `ledger`",
        ),
        row(
            "Mixing with releases that are not private?",
            "Yes: what is served at the partner is not private"
            + (f", and {len(facts.beside)} more as listed." if facts.beside else "."),
            "`not_covered`",
        ),
        row(
            "Retraining and tuning: are they counted?",
            "Failed rounds are; choosing settings and further runs are not, unless they are in the ledger.",
            "`not_covered`, `ledger`",
        ),
        row(
            "Utility and bias: whom does noise hurt most?",
            "Noise and clipping cost rare items and small partners most. Quality is reported per partner, with the "
            "worst and the gap, never averaged away.",
            "partners.csv of a simulation; the model card",
        ),
        row(
            "Trust model: who sees what without noise?",
            " ".join(str(line) for line in _trusted(facts)),
            "`trusted`, `guarantee.by_view`",
        ),
        row(
            "Implementation: floating point, generators, timing?",
            f"Floating point: {grid if private else 'no noise'}. Generator: "
            f"{'AES-256 in counter mode' if facts.secure_noise else 'repeatable, not cryptographic'}. Timing is not "
            "defended against, beyond that rounds follow the coordinator's clock.",
            "`assumptions`, SECURITY.md",
        ),
        row("Has the implementation been tested against its claim?", audit, "`audit`, `silhouette audit run`"),
        row(
            "Data security: who can read the data before the noise?",
            "The partner. Its records stay in its own installation; what leaves is listed there."
            if not facts.simulation
            else "The simulation holds every partner's data in one process.",
            "SECURITY.md",
        ),
        row(
            "Collection: was more collected than is needed?",
            "Nothing is collected for this: the partner's own records of its own users are read where they are. "
            "Purpose and consent are the partner's to answer.",
            "the partner's mapping and consent table",
        ),
    ]


def _markdown(document: dict[str, object]) -> str:
    lines = [
        f"# Privacy statement: {document['run']}",
        "",
        str(document["summary"]),
        "",
        f"Plan `{document['plan_digest']}`, {document['software']}, mode `{document['mode']}`.",
    ]
    guarantee = document["guarantee"]
    if isinstance(guarantee, dict):
        lines += ["", "## What is promised", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _promises(document, guarantee)]
        lines += ["", "## What the budget paid", ""]
        lines += _table(
            ("release", "noise multiplier", "sampling rate", "steps", "clip norm", "grid adds", "batch cap"),
            [
                (
                    line["purpose"],
                    f"{line['noise_multiplier']:.5g}",
                    f"{line['sampling_rate']:g}",
                    line["steps"],
                    f"{line['clip_norm']:g}",
                    f"{line['rounding']:.3g}" if line["grid_step"] else "no grid",
                    line["batch_cap"] or "none",
                )
                for line in _dicts(document["releases"])
            ],
        )
        lines += ["", str(document["contribution_bound"]), "", str(document["sampling"])]
        lines += ["", "## What the accountants assume, and whether it holds", ""]
        lines += _table(
            ("assumption", "holds", "because"),
            [
                (line["assumption"], "yes" if line["holds"] else "**no**", line["because"])
                for line in _dicts(document["assumptions"])
            ],
        )
    for title, key in (("Who is trusted", "trusted"), ("What is not covered", "not_covered")):
        entries = document[key]
        lines += ["", f"## {title}", ""]
        lines += [f"- {entry}" for entry in entries] if isinstance(entries, list) else []
    lines += ["", "## The questions of NIST SP 800-226", ""]
    lines += _table(
        ("question", "answer", "evidence"),
        [(line["question"], line["answer"], line["evidence"]) for line in _dicts(document["nist_sp_800_226"])],
    )
    return "\n".join(lines) + "\n"


def _promises(document: dict[str, object], guarantee: dict[str, object]) -> list[tuple[str, str]]:
    accountants, parts, views = (guarantee[key] for key in ("accountants", "delta_parts", "by_view"))
    if not (isinstance(accountants, dict) and isinstance(parts, dict) and isinstance(views, dict)):
        raise TypeError("expected a guarantee with accountants, parts of delta and views")

    def said(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else "not claimed"

    twice = guarantee["person_at_two_partners"]
    sharing = document["mode"] == "distributed"
    return [
        ("unit", str(document["unit"])),
        ("neighbours", str(document["neighbours"])),
        ("epsilon", f"{guarantee['epsilon']:.3f} (PLD) at delta {guarantee['delta']:g}"),
        ("other accountants", f"PRV {accountants['prv']:.3f}, RDP {accountants['rdp']:.3f}"),
        (
            "delta",
            f"{parts['accountants']:.3g} accountants, {parts['batch_cap']:.2g} batch cap, "
            f"{parts['arithmetic']:.2g} arithmetic",
        ),
        (
            "if secure aggregation failed" if sharing else "of one partner's release, against anyone",
            said(views["release"]),
        ),
        ("of the sum, against the coordinator and curious partners, fewest survivors", said(views["honest"])),
        ("of the sum, all partners honest and surviving", said(views["everybody"])),
        ("a person at two partners", said(twice) if twice is not None else "too large to be stated at this delta"),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows)]


def _dicts(value: object) -> list[dict[str, object]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
