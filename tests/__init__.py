"""How the tests' programs are compiled: they are small and run a few times, so that compiling is what costs.

All settings together make it four times as cheap, and the first two do little alone. They must stand before JAX starts.
"""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS = os.environ.get("XLA_FLAGS", "")  # part of a kept program's name, and workers inherit them
for _flag in (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",  # a program in pieces costs a third more, and the other core is busy
):
    if _flag not in _FLAGS:
        _FLAGS = f"{_flag} {_FLAGS}".strip()
os.environ["XLA_FLAGS"] = _FLAGS
