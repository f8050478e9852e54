"""Transport of low rank: a plan Q diag(1/g) R' through r parts, which stores n + m rows of r numbers and no more.

It is for clouds so large that a plan between all pairs, even a streamed one, takes too long: for |x - y|^2 a step costs
(n + m) r d. What it gives up is what r parts cannot say: every part goes to its part as independent masses do.
`solver` has the calls, `solution` what they return.
"""

from otgen.ot.sinkhorn.low_rank.solution import Solution
from otgen.ot.sinkhorn.low_rank.solver import Info, State, init, run, step

__all__ = ["Info", "Solution", "State", "init", "run", "step"]
