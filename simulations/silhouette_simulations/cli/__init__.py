"""The verbs that the simulations add to the command line: `silhouette data` and `sim`."""

from silhouette_simulations.cli import attack, deal, examine, federation, lookalike, mix, report, slices, study, sweep
from silhouette_simulations.cli.data import data
from silhouette_simulations.cli.sim import sim

attack.register(sim)
deal.register(sim)
examine.register(sim)
federation.register(sim)
lookalike.register(sim)
mix.register(sim)
report.register(sim)
slices.register(sim)
study.register(sim)
sweep.register(sim)

__all__ = ["data", "sim"]
