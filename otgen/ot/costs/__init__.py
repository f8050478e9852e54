"""Ground costs: what moving a unit of mass from x to y costs, as a matrix or as two clouds that meet block by block.

Every algorithm is written against one primitive, `map_blocks`: it hands a function the cost matrix a block of rows, or
of columns, at a time.

`ground` has what every cost can and the cost that is a matrix, `pairwise` the cost of two clouds, `distances` the cost
of a pair and `functions` when two such functions are one; `potentials` the pair that solvers find; `adapters` go to and
from OTT-JAX's geometries; `padding` brings clouds of different sizes to one.
"""

from otgen.ot.costs.ground import Cost, DenseCost, along, product
from otgen.ot.costs.pairwise import BLOCK, PairwiseCost

__all__ = ["BLOCK", "Cost", "DenseCost", "PairwiseCost", "along", "product"]
