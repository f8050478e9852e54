"""The benchmark of networks counts and trains each of them."""

import pytest

from experiments.bench import networks


@pytest.mark.slow
def test_every_network_is_measured():
    found = networks.main(networks.Config.smoke(dataset="digits"))["networks"]
    assert set(found) == set(networks.NETWORKS)
    for row in found.values():
        assert row["images_per_second"] > 0
        assert row["parameters"] > 1000
        assert row["psnr"][0] > 5
    assert found["residual, width 32"]["mflop_an_image"] > found["residual, width 16"]["mflop_an_image"]
