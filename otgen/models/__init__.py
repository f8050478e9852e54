"""Generative systems, one module each; `baselines` trains several on one budget."""

from otgen.models import ae_ot as ae_ot
from otgen.models import ae_ot_gan as ae_ot_gan
from otgen.models import baselines as baselines
from otgen.models import bures_linear as bures_linear
from otgen.models import code_reading as code_reading
from otgen.models import info_gan as info_gan
from otgen.models import informative_gan as informative_gan
from otgen.models import latent_flow as latent_flow
from otgen.models import latent_law as latent_law
from otgen.models import latent_ot as latent_ot
from otgen.models import map_distil as map_distil
from otgen.models import neural_map as neural_map
from otgen.models import store as store
from otgen.models import vae as vae
from otgen.models import wae_mmd as wae_mmd
from otgen.models import wgan_gp as wgan_gp
