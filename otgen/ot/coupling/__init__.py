"""Couplings of noise and data: pairs (x0, x1) to learn a flow from, of any labels.

Flow matching learns the velocity that moves noise x0 to data x1 on the line between them. Any coupling whose noise has
the source's law and whose data have theirs is legal; which one it is says how straight the paths are that come of it,
and so in how few steps they can be followed.

    coupling, info = og.coupling.semidiscrete(key, data, labels)       # solved once: N data, the whole law of noise
    for batch in og.coupling.batches(coupling, key, 512):              # a loop on the host
        state = step(state, batch.x0, batch.x1, batch.label, batch.weight)

    batch = coupling.pair(key, 512)                                    # or inside one's own jitted step

* `Independent`: noise and data as they come. Paths cross, so that the flow's are curved.
* `Minibatch`, `Sinkhorn`: the optimal or the entropic plan within each batch. Plans of batches are not batches of the
  plan: the bias falls slowly with the size of the batch, and the cost of a batch rises as its square or cube.
* `SemiDiscrete`: the optimal plan itself. Each noise point goes to the data point that wins it, by heights that are
  solved for once.

All have one method, `pair(key, num, labels)`, a pure function that gives a `Batch`; whatever has it is a coupling too.
The noise that is paired with a class has the same law for every class, as it must: noise that tells the class skews
samples of a class. `batches` iterates, `record` keeps a pairing in bytes, `with_flips` makes of flipped images further
points. Of a map without labels `pair`, `pairs`, `invert`, `invert_all` and `nearest` are those of
`otgen.ot.semidiscrete`.

`batch` has what all couplings share, `within` those of a batch, `solved` the semi-discrete one and `solving` its solve,
`lookup` the maxima over the points of a class, `imbalance` what to do about data that are used too often, `stream` the
iterator, `recorded` the pairs that are kept.

Reference: Tong et al. (2024), arXiv 2302.00482 (couplings of minibatches); Mousavi-Hosseini et al. (2025), arXiv
2509.25519 (semi-discrete flow matching); Cheng and Schwing (2025), arXiv 2503.10636 (labels).
"""

from otgen.ot.coupling.batch import Batch, Classes, with_flips
from otgen.ot.coupling.recorded import Recorded, record
from otgen.ot.coupling.solved import SemiDiscrete, from_map
from otgen.ot.coupling.solving import Progress, semidiscrete
from otgen.ot.coupling.stream import batches
from otgen.ot.coupling.within import Independent, Minibatch, Sinkhorn
from otgen.ot.semidiscrete.inverse import Inverse, invert, invert_all, nearest
from otgen.ot.semidiscrete.pairing import Pairs, pair, pairs

__all__ = [
    "Batch",
    "Classes",
    "Independent",
    "Inverse",
    "Minibatch",
    "Pairs",
    "Progress",
    "Recorded",
    "SemiDiscrete",
    "Sinkhorn",
    "batches",
    "from_map",
    "invert",
    "invert_all",
    "nearest",
    "pair",
    "pairs",
    "record",
    "semidiscrete",
    "with_flips",
]
