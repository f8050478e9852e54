"""What the methods are compared with: generators of images, laws of codes, and all of them by name on one budget.

`vae`, `wae_mmd` and `wgan_gp` are generators; `latent_law` has laws of codes (Gaussians, mixtures);
`compared` trains any of them by its name on one budget.
"""

from otgen.models.baselines.compared import (
    CODES,
    IMAGES,
    NAMES,
    budget_of,
    fit_codes,
    fit_images,
    image_config,
    steps_of,
)

__all__ = ["CODES", "IMAGES", "NAMES", "budget_of", "fit_codes", "fit_images", "image_config", "steps_of"]
