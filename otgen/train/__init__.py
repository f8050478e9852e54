"""Training: state, mapped step, loop, checkpoints, logging."""

from otgen.progress import Progress as Progress
from otgen.train.checkpoint import Checkpoints as Checkpoints
from otgen.train.log import JsonLines as JsonLines
from otgen.train.log import TensorBoard as TensorBoard
from otgen.train.log import Tracker as Tracker
from otgen.train.log import together as together
from otgen.train.loop import NonFinite as NonFinite
from otgen.train.loop import train as train
from otgen.train.parallel import mapped as mapped
from otgen.train.state import TrainState as TrainState
from otgen.types import averaged as averaged
