"""Gradient estimators. Each has its own file, all follow one contract (`contract.py`), and `table.py` lists them.

    estimator = vae.estimators.make("leave_one_out", num_samples=4)    # or vae.estimators.leave_one_out(num_samples=4)
    params, state = estimator.init(key, q, context)
    estimate = estimator.estimate(params, state, key, q, f, reduce=mean, log_q_weight=0.0, context=None)

`python -m vae.estimators` prints the table.
"""

from vae.estimators.blocks import blocks as blocks
from vae.estimators.contract import Distribution as Distribution
from vae.estimators.contract import Estimate as Estimate
from vae.estimators.contract import Estimator as Estimator
from vae.estimators.contract import Expect as Expect
from vae.estimators.contract import Integrand as Integrand
from vae.estimators.contract import LogJoint as LogJoint
from vae.estimators.contract import Reduction as Reduction
from vae.estimators.contract import bind as bind
from vae.estimators.contract import log_mean_exp as log_mean_exp
from vae.estimators.contract import mean as mean
from vae.estimators.entry import BY_NAME as BY_NAME
from vae.estimators.entry import Entry as Entry
from vae.estimators.entry import add as add
from vae.estimators.entry import fitting as fitting
from vae.estimators.entry import make as make
from vae.estimators.layerwise import layerwise as layerwise
from vae.estimators.table import ENTRIES as ENTRIES
from vae.estimators.tools import attach as attach
from vae.estimators.tools import first_derivative_only as first_derivative_only
from vae.estimators.tools import held as held
from vae.estimators.tools import inject as inject
from vae.estimators.tools import integrand as integrand
from vae.estimators.tools import isolated_loss as isolated_loss
from vae.estimators.tools import scale_cotangent as scale_cotangent
from vae.estimators.tools import stateless as stateless

# Each estimator's factory, guarded by the table, under its own name: vae.estimators.stl, vae.estimators.disarm, ...
globals().update({name: entry.make for name, entry in BY_NAME.items()})
