"""Structured smoothing: a transport plan whose code is informative, and its view as a perturbed ground cost.

A latent z = (code, noise) consists of one of K codes c, which should say something about the data, and of one of M
noises n, which need not. The plan pi pairs latents with data x at the cost C[c, n, x]. Smoothing the plan by
epsilon I(z; x) makes the code independent of the data, which is the opposite of what is wanted. Therefore a part lam of
the information between code and data is paid back:

  W = min_pi <C, pi> + epsilon I_f(pi) - lam I_f(pi_cx),   0 <= lam <= epsilon,   delta = epsilon - lam,

with I_f(pi) = E f(r), where r is the density of pi with respect to the independent plan, and r_c = E_n r is the density
of its code-data marginal pi_cx. With the entropic f these are mutual informations, and the sum is
delta I(c; x) + epsilon I(n; x | c): the noise is smoothed at temperature epsilon, the code at delta only. The objective
is convex, so that W has a dual with potentials f of the latents and g of the data. Its answer g to a given f is


  entropic: a log-mean-exp over noises at temperature epsilon inside one over codes at temperature delta;
  quadratic: the threshold of a sparsemax inside another.

The maximum of `semidual` over f is W. `run` finds it for arrays; any optimiser does so for networks, on batches of K x
M latents and B data. `otgen.ot.structured.plans` computes the density of the plan and its information. The same plan
solves plain smoothed transport for a *perturbed ground cost*, which can be read in three ways: `og.perturbed`. Both are
offered here by name.

Arrays: cost [K, M, B], f [K, M] (paper A: psi), g [B] (phi). A matrix [K, B] is a cost of codes without noise, M = 1.
`value` solves and returns W; `dual_value` is the dual at potentials that are given.

The idea is that of paper A (arXiv 1912.02160). This family of regularisers and its formulas are derived here by convex
duality; the tests check them to rounding.

`solver` maximises the semi-dual; `nested` has the formulas of the answer g to a given f, `plans` the functions of a
solution, and `perturbed` the perturbed ground costs.
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
