"""Ground costs: the cost of moving a unit of mass from x to y, as a matrix or as two clouds with a cost of pairs.

Every algorithm is written with one primitive, `map_blocks`, which applies a function to the cost matrix a block of
rows, or of columns, at a time.

`ground` has the base class of costs and the cost that is a matrix, `pairwise` the cost of two clouds, `masked` that of
a cloud to itself where no point may stay. `distances` has costs of one pair of points, and `functions` decides when two
such functions count as the same. `potentials` has the pair of potentials that solvers find; `relative` temperatures as
shares of the cost; `adapters` converts from and to OTT-JAX's geometries; `padding` brings clouds of different sizes to
one size. `product` is the matrix product for costs of one's own, from `otgen.ot.products`.
"""

from otgen.ot.costs.ground import Cost, DenseCost, along
from otgen.ot.costs.masked import MaskedDiagonal
from otgen.ot.costs.pairwise import PairwiseCost
from otgen.ot.products import product

__all__ = ["Cost", "DenseCost", "MaskedDiagonal", "PairwiseCost", "along", "product"]
