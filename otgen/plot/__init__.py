"""Figures a person would rather look at than read. Every function draws on an axis and returns it.

Colours are safe for colour-blind readers; text, rules and gaps take the colours of the active style, so that figures
suit a dark page (`style`, matplotlib's own "dark_background") as well as a light one, and a transparent one.
"""

from otgen.plot.charts import curves as curves
from otgen.plot.charts import diagnosis as diagnosis
from otgen.plot.charts import plan_matrix as plan_matrix
from otgen.plot.charts import table as table
from otgen.plot.images import image_grid as image_grid
from otgen.plot.images import traversal as traversal
from otgen.plot.look import BLUE as BLUE
from otgen.plot.look import CYCLE as CYCLE
from otgen.plot.look import GREY as GREY
from otgen.plot.look import ORANGE as ORANGE
from otgen.plot.look import style as style
from otgen.plot.plane import cells as cells
from otgen.plot.plane import colours as colours
from otgen.plot.plane import field as field
from otgen.plot.plane import plan as plan
from otgen.plot.plane import points as points
from otgen.plot.plane import potential as potential
