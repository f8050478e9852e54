"""Where version 0.1 had what a saved model names: its modules, by their names now.

A module that is a package of the same name now, and whose files share what it had, is not listed: the package offers
it.
"""

_MOVED = (  # old package, new package, then modules: "old=new", or one name for both
    ("ot", "ot.costs", "distances functions adapters padding"),
    (
        "ot",
        "ot.sinkhorn",
        "sinkhorn=solver newton=loop absorbed=absorption annealing entropic=potentials implicit "
        "pairing=sampling divergence",
    ),
    ("ot", "ot.dual", "dual=solver smoothed=evaluate smoothing ascent minibatch=stochastic"),
    ("ot", "ot.structured", "structured=solver plan=plans nested perturbed"),
    (
        "ot",
        "ot.semidiscrete",
        "heights=descent polish=newton shards=devices cells=measure warm=start scores source "
        "cell_walk=hit_and_run extension singular learned",
    ),
    ("ot", "ot.exact", "program"),
    ("ot", "ot.gaussian", "gaussian=maps bures covariance=factors units polar frechet mixture"),
    ("ot", "ot.latent", "latent=operations combination great_circle priors tabulated radial sums"),
    ("ot.latent", "ot.semidiscrete", "learned"),
    ("ot", "theory", "critical linear_flow=dynamics linear_bounds=bounds"),
    ("models", "nn", "adversarial"),
    ("models", "train", "settings"),
    ("models", "store", "description store=folder"),
    ("train", "store", "stored=checksums"),
    (
        "models",
        "maps",
        "neural_map map_c_transform=c_transform map_lp=lp map_icnn=icnn map_training=training map_distil=distil",
    ),
    ("models", "models.informative", "informative_gan informative_losses=losses codes code_reading info_gan"),
    ("models", "models.baselines", "baselines=compared vae wae_mmd wgan_gp latent_law"),
)


def current(name: str) -> str:
    """Return the dotted name that a class, function or constant of otgen has now, given the one it was saved under."""
    module, _, attribute = name.rpartition(".")
    if (made := REMADE.get((module.rpartition(".")[2], attribute))) is not None:
        return made
    if module == "otgen.ot.priors" and attribute in _TABULATED:
        return f"otgen.ot.latent.tabulated.{attribute}"
    return f"{_RENAMED.get(module, module)}.{attribute}"


REMADE = {  # functions that make something else of what was a class with these fields
    ("latent_law", "Transport"): "otgen.models.baselines.latent_law.map_to",
    ("latent_flow", "Flow"): "otgen.models.flow.earlier.flow",
    ("latent_flow", "Config"): "otgen.models.flow.earlier.config",
}
_TABULATED = ("Custom", "Empirical", "Mixture", "StudentT", "TruncatedNormal")  # a file that priors.py gave them up to


_RENAMED = {
    f"otgen.{old}.{before}": f"otgen.{new}.{after or before}"
    for old, new, modules in _MOVED
    for before, _, after in (module.partition("=") for module in modules.split())
}
