"""Exact transport: on the line by sorting, between as many points as points by assignment, else by a linear program.

On the line every convex cost h(x - y) has the same optimal plan, which matches quantiles: the north-west corner rule on
sorted points. Between n and n points of equal weight some permutation is optimal (Birkhoff), found on the host by
SciPy's Jonker-Volgenant algorithm; its dual potentials, the solution of the linear program's dual, follow from shortest
paths. Weights on both sides make it the linear program itself, which SciPy's HiGHS solves on the host, plan and
potentials at once; that is for some hundreds of points a side.

A cost of +inf forbids a pair. Where no plan avoids the forbidden pairs the optimum is +inf: outside jit that is a
ValueError, inside jit the value says it.

`line`, `matching` and `plans` have the calls, `program` is what the host solves, by `callback` also inside jit.
"""

from otgen.ot.exact.line import Coupling, coupling_line, value_line
from otgen.ot.exact.matching import Assignment, assignment, potentials
from otgen.ot.exact.plans import MAX_ENTRIES, Plan, plan

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
