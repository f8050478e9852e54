"""Generative systems, one module each."""

from otgen.models import ae_ot as ae_ot
