"""Data: toy distributions, image sets, batches."""

from otgen.data import sprites as sprites
from otgen.data import stacked as stacked
from otgen.data import toy as toy
from otgen.data import wasserstein2 as wasserstein2
from otgen.data.batches import batch_index as batch_index
from otgen.data.batches import batches as batches
from otgen.data.dataset import Dataset as Dataset
from otgen.data.images import load as load
