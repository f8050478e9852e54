"""Generative systems, one module each: `ae_ot`, `ae_ot_gan`, `latent_ot`, `bures_linear`, `sinkhorn_generator`.

Packages: `flow`, `codec` (autoencoders that are there already), `informative` (paper A's system and its baseline),
`baselines` (what all are compared with); `apply`, `classes` and `fitting` are what models share.

Every `fit` shows in a notebook how far it is, on one line; `progress=False` hides it, `progress=True` shows it in a
script. It takes `callback`, called with steps and metrics, and `checkpoints`: a folder in which each of its stages is
saved. A fit that was killed and is called again with the folder goes on, to the same bits; one that is done is not
trained again; a folder of other settings, of another key or of other data is refused. `train.Checkpoints` of one's own
are taken by the functions of one stage. Where classes are given as `labels`, `sample(..., label=)` draws from one.
"""

from otgen.models import ae_ot as ae_ot
from otgen.models import ae_ot_gan as ae_ot_gan
from otgen.models import baselines as baselines
from otgen.models import bures_linear as bures_linear
from otgen.models import codec as codec
from otgen.models import flow as flow
from otgen.models import latent_ot as latent_ot
from otgen.models import sinkhorn_generator as sinkhorn_generator
from otgen.models import use as use
from otgen.models.baselines import latent_law as latent_law
from otgen.models.baselines import vae as vae
from otgen.models.baselines import wae_mmd as wae_mmd
from otgen.models.baselines import wgan_gp as wgan_gp
from otgen.models.informative import code_reading as code_reading
from otgen.models.informative import info_gan as info_gan
from otgen.models.informative import informative_gan as informative_gan
