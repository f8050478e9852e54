"""What paper C proves of deep linear generators under the Bures loss.

`critical` has critical points and Hessian spectra, `dynamics` gradient flow and descent, `bounds` rates and whether a
run obeys them.

Reference: Brechet et al. (2023), arXiv 2303.03027.
"""
