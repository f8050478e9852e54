"""How the tests' programs are compiled: they are small and run a few times, so that compiling is what costs.

Both settings together make it three times as cheap, and neither does much alone. They must stand before JAX starts.
"""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS, _FLAG = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"
if _FLAG not in _FLAGS:  # the flags are part of a kept program's name, and workers inherit them
    os.environ["XLA_FLAGS"] = f"{_FLAG} {_FLAGS}".strip()
