"""Fetch data sets and weights into the folder that otgen reads: `python -m otgen.data.fetch`.

`catalogue` says what there is, `download` gets a file, `convert` makes of it what is read, with `checkpoints` for what
PyTorch wrote, and `files` does all of it. Nothing else in otgen downloads, or writes into the folder of the data.
"""

from otgen.data.fetch.catalogue import ENTRIES as ENTRIES
from otgen.data.fetch.files import fetch as fetch
from otgen.data.fetch.files import held as held
