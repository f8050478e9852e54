"""Generators whose code means something: paper A's informative OT-GAN, and InfoGAN, its baseline.

`informative_gan` and `info_gan` are the systems, `losses` what the networks of the first minimise, `codes` latents with
a code in them, `code_reading` what a trained code says of images.
"""
