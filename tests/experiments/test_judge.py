import numpy as np

from experiments.lab.judge import Judge
from otgen import data
from otgen import eval as evaluate


def test_images_without_classes_are_scored_on_the_rest():
    sets = [data.load("digits", split) for split in ("train", "test")]
    train, test = (data.Dataset(part.images[:300], part.labels[:300]) for part in sets)
    bare = [data.Dataset(part.images, np.zeros_like(part.labels)) for part in (train, test)]
    with_classes, without = (Judge("digits", *parts, evaluate.pixels, num=100) for parts in ((train, test), bare))
    assert without.classifier == "none"
    assert without.accuracy is None
    assert with_classes.accuracy > 0.8
    images = np.asarray(sets[0].images[300:400], np.float32) / 255
    scores, (expected, _) = without(images)[0], with_classes(images)
    assert set(expected) - set(scores) == {"class_tv", "mixtures"}
    assert scores == {name: expected[name] for name in scores}
