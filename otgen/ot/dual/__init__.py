"""The dual of smoothed transport: two functions of single points instead of a plan of pairs.

The plan that solves W = min_pi <C, pi> + epsilon E f(r), r its density with respect to a x b, is found by maximising

  D(f, g) = sum_i a_i f_i + sum_j b_j g_j - epsilon sum_ij a_i b_j f*((f_i + g_j - c_ij) / epsilon)

over one number per point, without constraints. Every D(f, g) is a lower bound of W, the best one equals W, and the
density of the plan is read off: r_ij = (f*)'((f_i + g_j - c_ij) / epsilon). Given f, the best g is known in closed form
(`transform`); putting it in leaves the semi-dual, a concave function of f alone, which `run` maximises by L-BFGS. A
plan is never stored, and costs are streamed in blocks, so that n x m numbers are needed only where a matrix is
returned. `value` solves and returns W; `dual_value` is D at potentials that are given, and `semidual` D at the best g
for a given f.

`objective` and `semi_objective` (`otgen.ot.dual.stochastic`) are the same sums over a batch, for potentials that are
networks. Functions of given potentials are written in `otgen.ot.dual.evaluate`. Both are offered here by name.

Rows are the latent side (paper A: psi = f), columns the data side (phi = g). The smoothing functions f are
in `otgen.ot.dual.smoothing`.

`solver` maximises by the steps of `ascent`; `evaluate` computes what given potentials are worth, `stochastic` does so
over batches.

Reference: Genevay et al. (2016), arXiv 1605.08527; Seguy et al. (2018), arXiv 1711.02283; Blondel et al. (2018), arXiv
1710.06276.
"""

from otgen.ot.costs.potentials import State
from otgen.ot.dual.ascent import Info
from otgen.ot.dual.evaluate import density, dual_value, gap, marginals, semidual, transform
from otgen.ot.dual.solver import run, value
from otgen.ot.dual.stochastic import objective, semi_objective

__all__ = [
    "Info",
    "State",
    "density",
    "dual_value",
    "gap",
    "marginals",
    "objective",
    "run",
    "semi_objective",
    "semidual",
    "transform",
    "value",
]
