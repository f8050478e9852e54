"""How the tests' programs are compiled: they are small and run a few times, so that compiling is what costs.

Both settings together make it three times as cheap, and neither does much alone. They must stand before JAX starts.
"""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}".strip()
