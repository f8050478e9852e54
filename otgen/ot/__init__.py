"""Transport mathematics: jax only; knows no network, no disk, no device count.

One package a problem: `sinkhorn` (entropic), `dual` (smoothed, by potentials), `structured` (informative codes),
`semidiscrete` (a law onto points), `exact` (the line, assignments, network simplex), `gaussian` (covariances and
mixtures), `latent` (operations that keep a prior), `coupling` (pairs of noise and data, to learn flows from). Under
them `costs`, `conjugate`, products at the highest precision (`products`), the arithmetic of weightless points (`inert`)
and the checks of what users hand in (`check`).
"""
