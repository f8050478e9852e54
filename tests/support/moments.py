"""What steps on several devices are compared by: Adam's moments, which are averages of gradients.

Parameters are not: of a gradient that is zero but for rounding Adam makes a whole step.
"""

import jax
import numpy as np


def moments(state):
    """Adam's first moments of everything that a state trains, by name."""
    found = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    found = {name: np.asarray(leaf) for name, leaf in found.items() if ".mu" in name}
    assert found
    return found


def assert_same_moments(state, wanted, tolerance):
    """Assert that two states have seen the same gradients, relative to the largest of each array."""
    wanted = moments(wanted)
    for name, found in moments(state).items():
        atol = tolerance * np.abs(wanted[name]).max() + 1e-9
        np.testing.assert_allclose(found, wanted[name], rtol=0, atol=atol, err_msg=name)
