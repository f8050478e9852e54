"""Theorems of paper C on deep linear generators under the Bures loss, as functions.

`critical` has critical points and Hessian spectra, `dynamics` has gradient flow and gradient descent, and `bounds` has
the proved rates and a comparison of a run with them.

Reference: Brechet et al. (2023), arXiv 2303.03027.
"""
