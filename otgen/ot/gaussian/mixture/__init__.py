"""Optimal transport between Gaussian mixtures, through plans between their components (Delon and Desolneux 2020).

Only plans between two mixtures that are mixtures themselves are considered. The best of them joins component k of p
and component l of q by the optimal plan between these two Gaussians. The share pi_kl of this pair solves the transport
problem between the weights for the squared 2-Wasserstein distances of the components: a linear program of k x l
unknowns, whatever the dimension. Its value MW_2^2 bounds W_2^2 from above. pi is a vertex of the polytope of plans: at
most k + l - 1 of its entries are positive, and maps and derivatives are computed for these pairs only. Components of
weight zero change nothing, whatever numbers they hold.

`plans` has distances and plans, `maps` densities and what a plan does to points.
"""

from otgen.ot.gaussian.mixture.maps import barycentric_map, geodesic, log_density, sample, sample_map
from otgen.ot.gaussian.mixture.plans import Info, Mixture, as_mixture, component_costs, plan, w2_sq

__all__ = [
    "Info",
    "Mixture",
    "as_mixture",
    "barycentric_map",
    "component_costs",
    "geodesic",
    "log_density",
    "plan",
    "sample",
    "sample_map",
    "w2_sq",
]
