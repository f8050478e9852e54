"""Kernels for GPUs, by Pallas and Triton: `softmin` of squared distances, `fused` maxima of affine functions."""
