"""Evaluation: features, distances, neighbours, modes, classes, disentanglement, latents, and intervals for all of them.

`Judge` and `PointJudge` take these scores together, by one protocol for all generators.

The Frechet distance is `ot.gaussian.frechet_distance`.
"""

from otgen.eval.classes import ambiguous_rate as ambiguous_rate
from otgen.eval.classes import class_counts as class_counts
from otgen.eval.classes import class_histogram as class_histogram
from otgen.eval.classes import class_test as class_test
from otgen.eval.classes import mixture_rate as mixture_rate
from otgen.eval.classes import mixture_score as mixture_score
from otgen.eval.classes import nearest_label as nearest_label
from otgen.eval.classes import predicted_labels as predicted_labels
from otgen.eval.classes import total_variation as total_variation
from otgen.eval.disentangle import dci as dci
from otgen.eval.disentangle import disentanglement as disentanglement
from otgen.eval.disentangle import mig as mig
from otgen.eval.disentangle import sap as sap
from otgen.eval.features import Extractor as Extractor
from otgen.eval.features import digit_classifier as digit_classifier
from otgen.eval.features import inception as inception
from otgen.eval.features import inception_all as inception_all
from otgen.eval.features import lenet as lenet
from otgen.eval.features import moments_of as moments_of
from otgen.eval.features import pixels as pixels
from otgen.eval.features import taef2 as taef2
from otgen.eval.information import matched_accuracy as matched_accuracy
from otgen.eval.information import nmi as nmi
from otgen.eval.intervals import Estimate as Estimate
from otgen.eval.intervals import Interval as Interval
from otgen.eval.intervals import bootstrap as bootstrap
from otgen.eval.intervals import over_seeds as over_seeds
from otgen.eval.interventions import beta_vae as beta_vae
from otgen.eval.interventions import factor_vae as factor_vae
from otgen.eval.judge import Judge as Judge
from otgen.eval.judge import PointJudge as PointJudge
from otgen.eval.judge import extractor_of as extractor_of
from otgen.eval.judge import over_draws as over_draws
from otgen.eval.kernel import kernel_distance as kernel_distance
from otgen.eval.latents import Diagnosis as Diagnosis
from otgen.eval.latents import diagnose as diagnose
from otgen.eval.maps import cosine as cosine
from otgen.eval.maps import l2_uvp as l2_uvp
from otgen.eval.modes import distinct_modes as distinct_modes
from otgen.eval.modes import mode_scores as mode_scores
from otgen.eval.modes import stacked_labels as stacked_labels
from otgen.eval.neighbours import density_coverage as density_coverage
from otgen.eval.neighbours import memorisation as memorisation
from otgen.eval.neighbours import nearest as nearest
from otgen.eval.neighbours import neighbour_scores as neighbour_scores
from otgen.eval.neighbours import novelty as novelty
from otgen.eval.neighbours import precision_recall as precision_recall
from otgen.eval.sliced import max_sliced_wp as max_sliced_wp
from otgen.eval.sliced import min_sliced_plan as min_sliced_plan
from otgen.eval.sliced import sliced_w2_sq as sliced_w2_sq
from otgen.eval.sliced import sliced_wp as sliced_wp
from otgen.eval.subsets import subset_divergence as subset_divergence
from otgen.eval.subsets import subset_w2_sq as subset_w2_sq
