"""Exact transport: on the line by sorting, between as many points as points by assignment, else by a linear program.

On the line every convex cost h(x - y) has the same optimal plan, which matches quantiles: the north-west corner rule on
sorted points. Between n and n points of equal weight some permutation is optimal (Birkhoff), found on the host by
SciPy's Jonker-Volgenant algorithm; its dual potentials, the solution of the linear program's dual, follow from shortest
paths. Weights on both sides make it the linear program itself, which SciPy's HiGHS solves on the host, plan and
potentials at once; that is for some hundreds of points a side.

A cost of +inf forbids a pair. Where no plan avoids the forbidden pairs the optimum is +inf: outside jit that is a
ValueError, inside jit the value says it.

`solver` has the calls, `program` what the host solves.
"""

from otgen.ot.exact.solver import (
    MAX_ENTRIES,
    Assignment,
    Coupling,
    Plan,
    assignment,
    coupling_line,
    plan,
    potentials,
    value_line,
)

__all__ = [
    "MAX_ENTRIES",
    "Assignment",
    "Coupling",
    "Plan",
    "assignment",
    "coupling_line",
    "plan",
    "potentials",
    "value_line",
]
