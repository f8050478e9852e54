"""Evaluation: features, neighbours, classes, modes. The Frechet distance is `ot.gaussian.frechet_distance`."""

from otgen.eval.classes import class_histogram as class_histogram
from otgen.eval.classes import nearest_label as nearest_label
from otgen.eval.classes import total_variation as total_variation
from otgen.eval.features import lenet as lenet
from otgen.eval.features import pixels as pixels
from otgen.eval.latents import Diagnosis as Diagnosis
from otgen.eval.latents import diagnose as diagnose
from otgen.eval.modes import mode_scores as mode_scores
from otgen.eval.neighbours import nearest as nearest
from otgen.eval.neighbours import novelty as novelty
from otgen.eval.neighbours import precision_recall as precision_recall
