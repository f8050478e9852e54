"""How the tests' programs are compiled: they are small and run a few times, so that compiling is what costs.

All settings together make it four times as cheap, and the first two do little alone. They must stand before JAX starts.
"""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS = os.environ.get("XLA_FLAGS", "")  # part of a kept program's name, and workers inherit them
_WANTED = ["--xla_cpu_parallel_codegen_split_count=1"]  # a program in pieces costs a third more; the other core is busy
if version("jaxlib").startswith("0.10."):  # later ones have it not, and abort on a flag that they do not know
    _WANTED.insert(0, "--xla_cpu_use_fusion_emitters=false")
for _flag in _WANTED:
    if _flag not in _FLAGS:
        _FLAGS = f"{_flag} {_FLAGS}".strip()
os.environ["XLA_FLAGS"] = _FLAGS
