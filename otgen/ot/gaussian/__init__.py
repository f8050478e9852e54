"""Transport between Gaussians in closed form: distances, maps, geodesics, barycenters, and mixtures.

`maps` has maps, geodesics and barycenters; `bures` has distances of covariances, and `spectrum` computes and
differentiates them; `frechet` has moments of samples and their distance; `mixture` has plans between mixtures. These
files rest on three others: `factors` of covariances, `polar` factors, and `units` in which squares stay within float32.

A function of two Gaussians takes `mean_a, cov_a, mean_b, cov_b` in this order (None for a mean of zero); a function of
their covariances alone takes `cov_a, cov_b`.
"""

from otgen.ot.gaussian.bures import bures_sq, bures_sq_factors, entropic_bures_sq, perturbed_bures_sq_factors
from otgen.ot.gaussian.frechet import Moments, frechet_distance, merge, moments
from otgen.ot.gaussian.maps import Affine, Info, barycenter, geodesic, geodesic_cov, map_matrix, transport_map, w2_sq

__all__ = [
    "Affine",
    "Info",
    "Moments",
    "barycenter",
    "bures_sq",
    "bures_sq_factors",
    "entropic_bures_sq",
    "frechet_distance",
    "geodesic",
    "geodesic_cov",
    "map_matrix",
    "merge",
    "moments",
    "perturbed_bures_sq_factors",
    "transport_map",
    "w2_sq",
]
