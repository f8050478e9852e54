"""Products as accelerators make them by default, on a CPU: factors in float32 are rounded to fewer bits.

Of a mantissa TF32, of NVIDIA GPUs, keeps 10 bits, and bfloat16, of TPUs, 7. `pytest --product-bits 10` runs tests so.
"""

import jax
from jax import lax

HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def round_products(bits, patch=setattr):
    """Round the factors of products to so many bits, of all that do not ask for the highest precision from now on.

    Args:
      bits: kept of a mantissa.
      patch: what sets an attribute, as `setattr` does.
    """
    jax.clear_caches()
    exact = lax.dot_general_p.bind

    def rounded(left, right, **how):
        if left.dtype == right.dtype == "float32" and how["precision"] != HIGHEST:
            left, right = (lax.reduce_precision(factor, 8, bits) for factor in (left, right))
        return exact(left, right, **how)

    patch(lax.dot_general_p, "bind", rounded)
