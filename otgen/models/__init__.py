"""Generative systems, one module each."""

from otgen.models import ae_ot as ae_ot
from otgen.models import bures_linear as bures_linear
