"""Barycenters under entropic transport: of clouds with free points, and of histograms on points that are given.

A barycenter of laws mu_k with weights w_k minimises sum_k w_k D(nu, mu_k) over laws nu. With the regularised value for
D a histogram is blurred, for |x - y|^2 by a variance of epsilon / 2 in each coordinate, and a cloud shrinks; with the
Sinkhorn divergence, the default, neither.
`free` moves points, `fixed` changes the masses of points that stay. Gaussians: `gaussian.barycenter`, in closed form,
and mixtures of them `mixture.barycenter`.
"""

from otgen.ot.barycenter.fixed import histogram
from otgen.ot.barycenter.free import Info, cloud

__all__ = ["Info", "cloud", "histogram"]
