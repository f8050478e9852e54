"""Autoencoders that somebody else trained, as the latent space of a model: `encode`, `decode`, and codes kept in files.

A `Codec` is a module with the methods `encode(images) -> codes [n, d]` and `decode(codes) -> images in [0, 1]`, and its
parameters. `modules` holds the modules, `made` what makes codecs of networks and functions, `kept` the codes of many
images, `second` a small autoencoder on the codes of another.
"""

from otgen.models.codec.kept import decode as decode
from otgen.models.codec.kept import encode as encode
from otgen.models.codec.made import Codec as Codec
from otgen.models.codec.made import components as components
from otgen.models.codec.made import features as features
from otgen.models.codec.made import of_functions as of_functions
from otgen.models.codec.made import of_module as of_module
from otgen.models.codec.made import taef2 as taef2
from otgen.models.codec.second import second as second
