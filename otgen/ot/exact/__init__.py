"""Exact transport: on the line by sorting, between equally many equal points by assignment, else by a network simplex.

On the line every convex cost h(x - y) has the same optimal plan, which matches quantiles; the north-west corner rule on
sorted points finds it. Between n and n points of equal weight some permutation is optimal (Birkhoff). SciPy's
Jonker-Volgenant algorithm finds it on the host, and shortest paths give the dual potentials. With other weights the
problem is a linear program, which POT's network simplex method solves on the host for plan and potentials at once; this
is practical for some thousands of points a side.

A cost of +inf forbids a pair. Where no plan avoids the forbidden pairs, the optimum is +inf: outside jit this raises a
ValueError, inside jit the value is +inf.

`line`, `matching`, `plans` and `partial` have the functions to call; `program` solves on the host, where `simplex`
calls POT and repairs its potentials, and `callback` calls that from inside jit.
"""

from otgen.ot.exact.line import Coupling, coupling_line, potentials_line, value_line
from otgen.ot.exact.matching import Assignment, assignment, potentials
from otgen.ot.exact.partial import Partial, partial_plan
from otgen.ot.exact.plans import MAX_ENTRIES, Plan, plan

__all__ = [
    "MAX_ENTRIES",
    "Assignment",
    "Coupling",
    "Partial",
    "Plan",
    "assignment",
    "coupling_line",
    "partial_plan",
    "plan",
    "potentials",
    "potentials_line",
    "value_line",
]
