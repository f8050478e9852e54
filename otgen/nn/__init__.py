"""Networks as Flax Linen modules."""

from otgen.nn.autoencoder import Autoencoder as Autoencoder
from otgen.nn.autoencoder import to_unit as to_unit
from otgen.nn.linear import DeepLinear as DeepLinear
