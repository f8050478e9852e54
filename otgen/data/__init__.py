"""Data: toy distributions, image sets by name, images of one's own, batches.

`load` gives a set. Of images of one's own `sources`, `archives` and `arrays` find what there is, `decoding` makes
pixels of it, `preparation` has the options, `planning` decides on split and classes, and `own` keeps the result, where
`cache` says. `mapped` reads what is larger than memory.
"""

from otgen.data import sprites as sprites
from otgen.data import stacked as stacked
from otgen.data import toy as toy
from otgen.data import wasserstein2 as wasserstein2
from otgen.data.batches import batch_index as batch_index
from otgen.data.batches import batches as batches
from otgen.data.dataset import Dataset as Dataset
from otgen.data.dataset import about as about
from otgen.data.images import is_own as is_own
from otgen.data.images import load as load
from otgen.data.preparation import Preparation as Preparation
