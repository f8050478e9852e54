"""AE-OT-GAN: the decoder of AE-OT becomes the generator of a GAN, fed with the latent law that the transport map makes.

Implements the method of An et al. (2020), arXiv 2001.03698, section 3. Of a trained AE-OT the encoder E and the
transport stay as they are; the generator G starts as its decoder. Half of the latents of a batch are codes z = E(x)
of real images, whose image is known; the others are new codes w of the extended map, so that what G reads covers the
data, while the pairs hold what it draws to them. By turns (`otgen.models.ae_ot_gan_losses`)

  the critic D minimises its adversarial loss on real images against G(z) and G(w), and a penalty on its gradient;
  the generator minimises  a L_adv + beta L_content + gamma L_feature,

with L_content the Bernoulli loss of x under the pixels of G(z), "bernoulli", or |x - G(z)|^2, "squared", and L_feature
either |w - E(G(w))|^2 in standardised codes, "latent", or |phi(x) - phi(G(z))|^2 for a fixed network
phi, "perceptual". For the first `warmup` steps the critic is trained alone. Their last 32 measure the gradients of the
three terms in G, and beta and gamma are set once, such that these have the norms a : a `content_weight` : a
`feature_weight`, in root mean square. Images are drawn from a moving average of G.

The weights, the losses and the schedule are chosen here; the paper's are not public.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logit

from otgen.models import ae_ot
from otgen.models.ae_ot import decode as decode
from otgen.models.ae_ot import encode as encode
from otgen.models.ae_ot_gan_losses import Batch, Features, balanced, critic_loss, generator_loss, slopes_of
from otgen.models.apply import check_images, parts_of, transport_of
from otgen.models.codec.modules import applied
from otgen.models.fitting import check_step
from otgen.nn import adversarial
from otgen.nn.autoencoder import decoder, to_unit
from otgen.nn.critic import critic
from otgen.ot import gaussian
from otgen.ot.check import as_count, as_key, require_choice, require_kind
from otgen.ot.products import product
from otgen.ot.semidiscrete import extension
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.loop import NonFinite, check_readers, train_on
from otgen.train.parallel import sample_keys, shared_rows
from otgen.train.settings import Checked, adam, made
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

CONTENTS = ("bernoulli", "squared")
FEATURES = ("latent", "perceptual", "none")
LATENTS = ("transport", "gaussian")
PHASES = ("critic", "measure", "both")
_MEASURED = 32  # last steps of the warm-up, in which gradients are measured


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """What makes the last stage of an AE-OT-GAN; its networks are like those of the AE-OT.

    Attributes:
      epochs: passes over the images; a fraction is legal.
      batch_size: real images of a step, over all devices, and as many generated ones.
      learning_rate: peak of the generator's Adam, on a warm-up and cosine schedule.
      critic_learning_rate: the same of the critic's.
      adversarial: "hinge", "non_saturating" or "wasserstein", see `otgen.nn.adversarial`.
      adversarial_weight: a, of all three terms. With 0 nothing is trained and the generator is AE-OT's decoder; other
        values differ by no more than Adam's small constant, so give content_weight and feature_weight to weigh.
      content_weight: share of the content loss, by the norm of its gradient.
      content: "bernoulli" (the autoencoder's own loss, in nats, less what an exact image has) or "squared".
      feature: "latent", "perceptual" (needs `features`) or "none".
      feature_weight: its share likewise.
      penalty: weight of the penalty on the critic's gradient.
      warmup: steps of the critic alone, on top of those of `epochs`; at least one.
      form: of the extended map: "pairs", "simplex", "stochastic" or "local".
      angle: threshold of its singular set in radians; None for the one that AE-OT has found.
      latents: law of the new codes: "transport", or "gaussian" with the mean and covariance of the codes (an ablation).
      average: decay of the moving average of the generator's weights.

    Raises:
      ValueError: for fields out of range.

    Example:
      >>> print(og.models.ae_ot_gan.Config(epochs=2).adversarial)
      hinge
    """

    epochs: float = 12
    batch_size: int = 128
    learning_rate: float = 2e-4
    critic_learning_rate: float = 5e-4
    adversarial: str = "hinge"
    adversarial_weight: float = 1.0
    content_weight: float = 1.0
    content: str = "bernoulli"
    feature: str = "latent"
    feature_weight: float = 0.3
    penalty: float = 1.0
    warmup: int = 200
    form: str = "local"
    angle: float | None = None
    latents: str = "transport"
    average: float = 0.999

    def __post_init__(self) -> None:
        self.positive("epochs", "learning_rate", "critic_learning_rate")
        self.whole("batch_size", least=2)
        self.whole("warmup")
        known = {"adversarial": adversarial.KINDS, "content": CONTENTS, "feature": FEATURES, "latents": LATENTS}
        for name, words in known.items():
            self.one_of(name, words)
        self.not_negative("adversarial_weight", "content_weight", "feature_weight", "penalty")
        self.below_one("average")
        if self.batch_size % 2:
            raise ValueError(f"batch_size = {self.batch_size}: give an even number, half of it are pairs.")
        extension.check_form(self.form, 0.0 if self.angle is None else self.angle)


class AEOTGAN(ae_ot.AEOT):
    """AE-OT whose images are a generator's; `decode`, `codes` and `sample` are those of the GAN.

    Params: `autoencoder` or `codec` (frozen), `generator`, which starts from its decoder, `critic`. Collection
    `transport` as in `ae_ot.AEOT`, with `root` [d, d] of the covariance of the codes if the latents are Gaussian.

    Attributes:
      image_shape, config, codec: of the AE-OT. The critic is as `config` says.
      gan: see Config.

    Example:
      >>> module = og.models.ae_ot_gan.AEOTGAN((8, 8, 1), og.models.ae_ot.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.gan == og.models.ae_ot_gan.Config())
      True
    """

    gan: Config = Config()

    def setup(self) -> None:
        super().setup()
        networks = self.config.networks()
        if self.codec is None:
            self.generator = decoder(self.image_shape, *networks)
        self.critic = critic(self.image_shape, *networks)

    def logits(self, codes: Array) -> Array:
        """Pixel logits [n, h, w, c] of what the generator makes of codes [n, d] in the autoencoder's own scale.

        Decoders of codecs make pixels, which are kept a thousandth away from black and white here.
        """
        if self.codec is None:
            return self.generator(codes)
        return logit(jnp.clip(self.decode(codes), 1e-3, 1 - 1e-3))

    def decode(self, codes: Array) -> Array:
        """Images [n, h, w, c] in [0, 1] that the generator makes of codes [n, d] in the autoencoder's own scale."""
        if self.codec is None:
            return nn.sigmoid(self.logits(codes))
        return applied(self, "codec", codes, "decode", "generator")

    def value(self, images: Array) -> Array:
        """Return values [n] that the critic gives to images [n, h, w, c]."""
        return self.critic(images)

    def codes(self, key: Key, num: int, form: str | None = None, angle: Array | float | None = None) -> Array:
        """Draw new codes [num, d] from the law that the generator is fed with."""
        if self.gan.latents == "gaussian":
            noise = jax.random.normal(key, (num, self.config.latent_dim))
            return product(noise, self.get_variable("transport", "root").T) + self.get_variable("transport", "mean")
        return super().codes(key, num, form or self.gan.form, self.gan.angle if angle is None else angle)

    def sample(self, key: Key, num: int, form: str | None = None, angle: Array | float | None = None) -> Array:
        """Draw images [num, h, w, c] in [0, 1]: noise -> extended map -> generator."""
        return self.decode(self.codes(key, num, form, angle))


class State(NamedTuple):
    """What the last stage carries.

    Attributes:
      generator, critic: TrainState of each; the generator's with the moving average of its parameters.
      slopes: squared norms of the gradients of the adversarial, content and feature terms [3], summed while they were
        measured.
      step: steps taken, those of the critic alone among them (int32).

    Example:
      >>> print(og.models.ae_ot_gan.State._fields)
      ('generator', 'critic', 'slopes', 'step')
    """

    generator: TrainState
    critic: TrainState
    slopes: Array
    step: Array


def new_codes(module: AEOTGAN, fixed: Any, key: Key, num: int, axis_name: str | None = None) -> Array:
    """Draw this device's `num` of the new codes: every device draws those of all, alike, and keeps its own."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    codes = module.apply({"transport": fixed["transport"]}, key, num * devices, method="codes")
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num
    return jax.lax.dynamic_slice_in_dim(codes, first, num)


def num_steps_of(config: Config, num_images: int) -> int:
    """Return steps of the last stage, those of the critic alone among them.

    Example:
      >>> config = og.models.ae_ot_gan.Config(epochs=2, batch_size=10, warmup=5)
      >>> print(og.models.ae_ot_gan.num_steps_of(config, 100) > 5)
      True
    """
    rows = rows_of(config, num_images)
    return config.warmup + max(1, round(config.epochs * num_images / rows))


def rows_of(config: Config, num_images: int) -> int:
    """Return the real images of a step: a whole batch, or the largest even share for every device that there are.

    Raises:
      ValueError: if they cannot be shared by the devices in even numbers.

    Example:
      >>> config = og.models.ae_ot_gan.Config(batch_size=10)
      >>> print(og.models.ae_ot_gan.rows_of(config, 100), og.models.ae_ot_gan.rows_of(config, 7))
      10 6
    """
    require_kind("config", config, Config)
    return shared_rows(config.batch_size, as_count("num_images", num_images), each=2)


def _optimisers(config: Config, num_steps: int) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Of the generator, which plays after the warm-up, and of the critic."""
    rates = {"b1": 0.0, "b2": 0.99}
    played = max(1, num_steps - config.warmup)
    return adam(config.learning_rate, played, **rates), adam(config.critic_learning_rate, num_steps, **rates)


def init(key: Key, config: Config, model: ae_ot.Model, num_steps: int) -> tuple[AEOTGAN, State, dict[str, Any]]:
    """Return the module, the state that the last stage starts from, and the variables that stay.

    Args:
      key: random key of the critic.
      config: the last stage.
      model: a trained AE-OT.
      num_steps: steps of the stage, the length of the critic's schedule.

    Returns:
      Module, State, and `params` of the autoencoder with `transport`.

    Raises:
      ValueError: for an AE-OT on a codec of functions, which cannot be trained.
    """
    as_key(key), require_kind("config", config, Config), as_count("num_steps", num_steps)
    transport_of(parts_of(model, ae_ot.AEOT)[1])
    of_codec = model.module.codec is not None
    known = model.variables["params"]["codec" if of_codec else "autoencoder"]
    leaves = jax.tree.leaves(known)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError("this AE-OT is on a codec of functions, which cannot be trained: give one of a Flax module.")
    module = AEOTGAN(model.module.image_shape, model.module.config, config, codec=model.module.codec)
    critic = module.init(key, jnp.zeros((1, *module.image_shape)), method="value")["params"]["critic"]
    transport = dict(model.variables["transport"])
    if config.latents == "gaussian":
        cov = gaussian.moments(transport["codes"] * transport["scale"]).covariance()
        values, vectors = jnp.linalg.eigh(cov)
        transport["root"] = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    for_generator, for_critic = _optimisers(config, num_steps)
    generator = start(for_generator, known if of_codec else known["decoder"], average=True)
    fixed = {"params": {"codec" if of_codec else "autoencoder": known}, "transport": transport}
    return module, State(generator, start(for_critic, critic), jnp.zeros(3), jnp.int32(0)), fixed


def make_step(module: AEOTGAN, num_steps: int, features: Features | None = None, *, phase: str = "both"):
    """Return a pure training step `(state, images, key, fixed, *, axis_name) -> (state, metrics)` of the last stage.

    Every second image of a batch gives a pair. `fixed` is what `init` gives.

    Args:
      module: the model.
      num_steps: steps of the stage, as in `init`.
      features: for feature = "perceptual", images [n, h, w, c] to features [n, p].
      phase: "critic", of the critic alone; "measure", the same and gradients of the generator's terms are measured;
        "both".

    Raises:
      ValueError: for an unknown phase; when traced, if a device has an odd number of images.
    """
    check_step(module, AEOTGAN, num_steps), require_choice("phase", phase, PHASES)
    gan = module.gan
    for_generator, for_critic = _optimisers(gan, num_steps)

    def step(state: State, images: Array, key: Key, fixed: Any, *, axis_name: str | None = None):
        if images.shape[0] % 2:
            raise ValueError(f"{images.shape[0]} images on a device: give an even number, half of them are pairs.")
        real = to_unit(images)
        known = real[::2]
        pairs = module.apply(fixed, known, method="encode")
        code_key, share_key = jax.random.split(key)
        drawn = jax.random.fold_in(code_key, state.step)
        batch = Batch(known, pairs, new_codes(module, fixed, drawn, len(known), axis_name))
        variables = {"params": {"generator": state.generator.params}}
        by_turns = jnp.stack([batch.new, pairs], axis=1).reshape(len(real), -1)  # none beside its own reconstruction
        fake = module.apply(variables, by_turns, method="decode")
        share = jax.vmap(jax.random.uniform)(sample_keys(share_key, state.step, len(real), axis_name))
        critic, metrics = descend(for_critic, state.critic, critic_loss, module, real, fake, share, axis_name=axis_name)
        state = state._replace(critic=critic, step=state.step + 1)
        if phase == "critic":
            return state, metrics
        if phase == "measure":
            slopes = slopes_of(module, state, fixed, batch, features, axis_name=axis_name)
            return state._replace(slopes=state.slopes + slopes), metrics
        rest = module, critic.params, fixed, balanced(gan, state.slopes), batch, features
        options = {"axis_name": axis_name, "decay": gan.average}
        generator, more = descend(for_generator, state.generator, generator_loss, *rest, **options)
        return state._replace(generator=generator), {**metrics, **more}

    return step


@watched
def refine(
    key: Key,
    model: ae_ot.Model,
    images: Any,
    *,
    features: Features | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    watch: Callable[[int, State], None] | None = None,
    log_every: int = 50,
    save_every: int = 500,
    **config: Any,
) -> ae_ot.Model:
    """Train the last stage of an AE-OT-GAN, going on from the newest checkpoint if there is one.

    Args:
      key: random key.
      model: a trained AE-OT, from `ae_ot.fit`; of one that was refined before, the generator is trained anew.
      images: its training images, uint8, or floats in [0, 1], [N, h, w, c].
      features: for feature = "perceptual", a pure function of images [n, h, w, c] in [0, 1] to features [n, p].
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      watch, log_every, save_every: as in `train.train`.
      **config: fields of Config.

    Returns:
      Model with the averaged generator; `sample`, `encode` and `decode` take it.

    Raises:
      ValueError: for images of another shape, range or number than the model's, a model without transport, fields out
        of range, features that are missing or not wanted, rows that do not divide among the devices.
      TypeError: for a field that Config does not have.
      NonFinite, KeyboardInterrupt: as `train.train`; NonFinite also for a critic without any gradient.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> base = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> model = og.models.ae_ot_gan.refine(jax.random.key(1), base, images, epochs=1, batch_size=20)
      >>> print(bool((model.variables["transport"]["h"] == base.variables["transport"]["h"]).all()))  # stays as it was
      True
    """
    check_readers(callback, checkpoints, watch)
    as_count("log_every", log_every), as_count("save_every", save_every)
    settings = made(Config, config)
    parts_of(model, ae_ot.AEOT)
    images = np.asarray(check_images(images, shape=model.module.image_shape))
    _check(settings, model, images, features)
    num_steps = num_steps_of(settings, len(images))
    init_key, order_key, step_key = jax.random.split(as_key(key), 3)
    module, state, fixed = init(init_key, settings, model, num_steps)
    stops = (settings.warmup - _MEASURED, settings.warmup, num_steps) if settings.adversarial_weight else ()
    options = {"fixed": (fixed,), "callback": callback, "watch": watch, "log_every": log_every}
    options |= {"batch_size": rows_of(settings, len(images)), "save_every": save_every}
    given = {"base": module.config, "params": fixed["params"], "key": key, "images": images}
    with opened(checkpoints, "gan", settings, **given) as saved:
        for phase, stop in zip(PHASES, stops, strict=False):
            if stop <= 0:
                continue
            step = make_step(module, num_steps, features, phase=phase)
            keys = order_key, step_key
            state = train_on((images,), step, state, keys, num_steps=stop, checkpoints=saved, **options)
            if phase != "critic" and not float(state.slopes[0]) > 0:
                raise NonFinite("the critic's values have no gradient in the generator: lower critic_learning_rate.")
    params = {**fixed["params"], "generator": state.generator.average, "critic": state.critic.params}
    return model._replace(module=module, variables={"params": params, "transport": fixed["transport"]})


def _check(settings: Config, model: ae_ot.Model, images: np.ndarray, features: Features | None) -> None:
    """Raise ValueError if images, model and features do not belong together."""
    num_codes = len(transport_of(model.variables)["codes"])
    if len(images) != num_codes:
        raise ValueError(f"{len(images)} images for {num_codes} codes: give the same.")
    if (settings.feature == "perceptual") != (features is not None):
        raise ValueError(f"feature = {settings.feature!r}: give features with perceptual, and only with it.")
    rows_of(settings, len(images))


@watched
def fit(
    key: Key,
    images: Any,
    labels: np.ndarray | None = None,
    *,
    base: dict[str, Any] | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> ae_ot.Model:
    """Fit an AE-OT-GAN to images in memory: `ae_ot.fit`, then `refine`.

    Args:
      key: random key.
      images: uint8, or floats in [0, 1], [N, h, w, c].
      labels: integers [N], to draw from one class by `sample(..., label=)`; None for none.
      base: fields of `ae_ot.Config`.
      callback: called with steps and metrics of all stages.
      checkpoints: a folder in which all stages save, and from which they go on, bit-identically.
      **config: fields of Config, and `features` as in `refine`.

    Returns:
      Model.

    Raises:
      ValueError, TypeError: as `ae_ot.fit` and `refine`.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> base = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot_gan.fit(jax.random.key(0), images, base=base, epochs=1, batch_size=20)
      >>> print(og.models.ae_ot_gan.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    first, second = jax.random.split(as_key(key))
    check_readers(callback, checkpoints, stages=3)
    settings = made(Config, {name: value for name, value in config.items() if name != "features"})
    images, base = check_images(images), {} if base is None else base
    made(ae_ot.Config, base)
    rows_of(settings, len(images))  # raises before anything is trained
    options = {"callback": callback, "checkpoints": checkpoints}
    model = ae_ot.fit(first, images, labels, **options, **base)
    return refine(second, model, images, **options, **config)


def sample(
    key: Key,
    model: ae_ot.Model,
    num: int,
    *,
    label: int | None = None,
    form: str | None = None,
    angle: float | None = None,
) -> Array:
    """Draw images [num, h, w, c] in [0, 1]: noise -> extended map -> generator.

    Args:
      key: random key.
      model: from `fit` or `refine`.
      num: how many.
      label: draw only codes of this label.
      form, angle: of the extended map; None for those of training.

    Raises:
      ValueError: as `ae_ot.sample`; and for a label, a form or an angle where the latents are Gaussian.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> base = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot_gan.fit(jax.random.key(0), images, base=base, epochs=1, batch_size=20)
      >>> print(og.models.ae_ot_gan.sample(jax.random.key(1), model, 3, form="pairs").shape)
      (3, 8, 8, 1)
    """
    parts_of(model, AEOTGAN)
    gan = model.module.gan
    if gan.latents == "gaussian" and not label is form is angle is None:
        raise ValueError("this model draws Gaussian latents: they have no label, form or angle.")
    angle = gan.angle if angle is None else angle
    return ae_ot.sample(key, model, num, label=label, form=form or gan.form, angle=angle)
