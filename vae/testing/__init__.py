"""Problems with exact gradients; `certify`, which tests anybody's gradient estimator on them; and
`certify_distribution`, which tests a family of distributions.

certified = vae.testing.certify(vae.estimators.make("disarm", num_samples=2), "Bernoulli")
assert certified, certified
certified = vae.testing.certify_distribution(lambda p: vae.distributions.Normal(**p), parameters)
assert certified, certified
"""

from vae.testing.certificate import Certificate as Certificate
from vae.testing.certificate import DistributionCertificate as DistributionCertificate
from vae.testing.certify import certify as certify
from vae.testing.certify_distribution import certify_distribution as certify_distribution
from vae.testing.problems import Problem as Problem
from vae.testing.problems import problem as problem
