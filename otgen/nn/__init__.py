"""Networks as Flax Linen modules."""

from otgen.nn import augment as augment
from otgen.nn import critic as critic
from otgen.nn import potentials as potentials
from otgen.nn import taef2 as taef2
from otgen.nn import unet as unet
from otgen.nn import velocity as velocity
from otgen.nn.autoencoder import Autoencoder as Autoencoder
from otgen.nn.autoencoder import to_unit as to_unit
from otgen.nn.linear import DeepLinear as DeepLinear
from otgen.nn.taef2 import TAEF2 as TAEF2
