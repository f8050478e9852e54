"""Entropic optimal transport, balanced and unbalanced: the plan, its value, what the plan is good for.

`solver` has the calls, `inputs` their checks, `solution` what they return, `outside` what it says of new points; `loop`
the iteration and its stopping rule, on kernels of `absorption`, from the temperatures of `annealing`; `symmetric` the
iteration of a cloud to itself, `potentials` iterations in the log domain, `plans` the plan that potentials make,
`implicit` derivatives, `sampling` drawn pairs, `divergence` the debiased divergence, `drift` the velocity of points
that descend it, `low_rank` plans of low rank.
"""

from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn.plans import apply_plan, marginals, plan, primal_cost
from otgen.ot.sinkhorn.sampling import sample_plan
from otgen.ot.sinkhorn.solution import Solution
from otgen.ot.sinkhorn.solver import Info, init, run, step, value

__all__ = [
    "Info",
    "Solution",
    "State",
    "apply_plan",
    "init",
    "marginals",
    "plan",
    "primal_cost",
    "run",
    "sample_plan",
    "step",
    "value",
]
