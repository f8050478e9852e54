"""Semi-discrete optimal transport: a source law one can sample, onto weighted points.

The map is the gradient of a maximum of affine functions, u_h(x) = max_i <y_i, x> + h_i: it sends x to the
point that wins the maximum, and the cell of point i is the set of x that it wins. The heights minimise the
convex energy E(h) = E_x u_h(x) - sum_i nu_i h_i, whose gradient is (mass of cell i) - nu_i: at the optimum
every cell has the mass of its point (Gu, Luo, Sun and Yau, 2013, arXiv 1302.5472; the solver is the sampled one of
An et al., 2020, arXiv 2001.03698, with a warm start, fresh quasi-random samples, a step size in units of the
problem, and an error measured on samples the heights have never seen).

Points are centred before scores are taken; heights do not depend on it. With the cost |x - y|^2 the dual
potential of the points is g = 2 h + |y|^2. A point of weight zero takes no part, whatever stands in its row: its cell
is empty, its height -1e30, and it counts in no mean or scale, so that zero weights pad points to a static shape.

`solver` runs the solve and returns a `transport_map`, `solution` says what heights do: `start` is where it begins,
`descent` the update of the heights, `newton` its steps in low dimensions, `devices` its loops, `measure` the masses of
cells and chi2. `scores` takes the maxima, `source` has the laws of x, which priors of `og.latent` are too. What a
solved map is good for: `extension` (new points), `angle_filter` (which cells are joined), `singular` (where the map
jumps), `pairing` (pairs for training), `inverse` (noise of given data, by walks of `hit_and_run`), `learned` (a prior
whose sums are matched by a solve).
"""

from otgen.ot.semidiscrete.descent import Schedule, State, from_heights, stage, step
from otgen.ot.semidiscrete.scores import TILE
from otgen.ot.semidiscrete.solution import assign, carried, chi2, init, masses, matching
from otgen.ot.semidiscrete.solver import Info, run
from otgen.ot.semidiscrete.transport_map import Map

__all__ = [
    "TILE",
    "Info",
    "Map",
    "Schedule",
    "State",
    "assign",
    "carried",
    "chi2",
    "from_heights",
    "init",
    "masses",
    "matching",
    "run",
    "stage",
    "step",
]
