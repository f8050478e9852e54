"""Transport mathematics: jax only; knows no network, no disk, no device count."""
