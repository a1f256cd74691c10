"""Pictures for papers, drawn with matplotlib: the charts of `experiments.common.charts`, and grids of images.

Every function returns a matplotlib `Figure`, and `save` writes the figure into files. pyplot is not used: a figure
belongs to its caller, nothing is shown, and no backend is chosen. The sizes are those of a printed page, in inches.
"""

from experiments.common.plots.gradients import against as against
from experiments.common.plots.gradients import bias_forest as bias_forest
from experiments.common.plots.gradients import comparison as comparison
from experiments.common.plots.gradients import variance_against_cost as variance_against_cost
from experiments.common.plots.images import image_grid as image_grid
from experiments.common.plots.images import interpolations as interpolations
from experiments.common.plots.images import latent_plane as latent_plane
from experiments.common.plots.images import reconstructions as reconstructions
from experiments.common.plots.style import COLOURS as COLOURS
from experiments.common.plots.style import WIDTH as WIDTH
from experiments.common.plots.style import save as save
from experiments.common.plots.style import styled as styled
from experiments.common.plots.toys import toy_curves as toy_curves
from experiments.common.plots.training import candidates as candidates
from experiments.common.plots.training import compare_runs as compare_runs
from experiments.common.plots.training import learning_curves as learning_curves
from experiments.common.plots.training import rate_distortion as rate_distortion
