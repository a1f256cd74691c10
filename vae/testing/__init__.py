"""Problems with exact gradients, and `certify`, which tests anybody's gradient estimator on them.

certified = vae.testing.certify(vae.estimators.make("disarm", num_samples=2), "Bernoulli")
assert certified, certified
"""

from vae.testing.certificate import Certificate as Certificate
from vae.testing.certify import certify as certify
from vae.testing.problems import Problem as Problem
from vae.testing.problems import problem as problem
