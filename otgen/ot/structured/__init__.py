"""Structured smoothing: a transport plan whose code is informative, and its view as a perturbed ground cost.

A latent z = (code, noise) has a part that should mean something, one of K codes c, and a part that need not, one of M
noises n. The plan pi pairs latents with data x at the cost C[c, n, x]. Smoothing it by epsilon I(z; x) makes the code
independent of the data, the opposite of what is wanted, so a part of the information between code and data is paid
back:

  W = min_pi <C, pi> + epsilon I_f(pi) - lam I_f(pi_cx),   0 <= lam <= epsilon,   delta = epsilon - lam,

with I_f(pi) = E f(r), r the density of pi against independence, and r_c = E_n r that of its code-data marginal pi_cx.
With the entropic f these are mutual informations and the sum is delta I(c; x) + epsilon I(n; x | c): noise is smoothed
at temperature epsilon, the code at delta only. That is convex, so W has a dual with potentials f of the latents and g
of the data:

  entropic: a log-mean-exp over noises at temperature epsilon inside one over codes at temperature delta;
  quadratic: the threshold of a sparsemax inside another.

`semidual` maximised over f gives W, for arrays by `run` and for networks on batches of K x M latents and B data by any
optimiser. What the plan says is read off by `otgen.ot.structured.plans`. The same plan solves plain smoothed transport
for a *perturbed ground cost*, which has three readings: `og.perturbed`. Both are offered here by name.

Arrays: cost [K, M, B], f [K, M] (paper A: psi), g [B] (phi). A matrix [K, B] is a cost of codes without noise, M = 1.
`value` solves and returns W; `dual_value` is the dual at potentials that are given.

The idea of paper A (arXiv 1912.02160); this family of regularisers and its formulas are derived here by convex duality
and hold to rounding in the tests.

`solver` maximises; `nested` has the formulas of the answer g to given f, `plans` what a solution says, `perturbed` the
perturbed ground costs.
"""

from otgen.ot.dual.ascent import Info
from otgen.ot.structured.nested import Weights
from otgen.ot.structured.perturbed import (
    adversary,
    alternate,
    encoder_perturbation,
    evaluate_payoff,
    perturbation,
    perturbed_cost,
)
from otgen.ot.structured.plans import Information, State, conditional, density, dual_density, information, regulariser
from otgen.ot.structured.solver import dual_value, run, semidual, transform, value

__all__ = [
    "Info",
    "Information",
    "State",
    "Weights",
    "adversary",
    "alternate",
    "conditional",
    "density",
    "dual_density",
    "dual_value",
    "encoder_perturbation",
    "evaluate_payoff",
    "information",
    "perturbation",
    "perturbed_cost",
    "regulariser",
    "run",
    "semidual",
    "transform",
    "value",
]
