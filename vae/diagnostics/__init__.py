"""Bias, variance, signal-to-noise ratio and cost of a gradient estimate at fixed parameters.

    gradient = partial(make_gradient(bound, estimator), params=params, data=x)     # gradient(key)
    moments = gradient_moments(gradient, key, draws=1000, chunks=20, truth=truth)
    figures = report(moments, truth)                                # {part: {figure: number}}
    by_chunk = figures_by_chunk(moments)                            # {part: {figure: [chunks]}}, figures in FIGURES
    low, high = interval(by_chunk["encoder"]["variance"], resampling(chunks=20), log=True)

A gradient is a pytree of groups, such as encoder and decoder, and each group is a pytree. A part is a group or one
layer of a group; see `parts`. The functions of moments are pure and can be jitted. The draws are not stored. They are
divided into equal chunks. A scan updates the mean and the sum of squared deviations of each chunk, and the bootstrap
resamples the chunks. Intervals come from the studentized bootstrap; `compare_all` compares several estimators at once.

For a part with coordinates i, a draw g with mean E g, and the true gradient t:

    variance    sum_i Var g_i, the trace of the covariance.
    snr         mean_i |E g_i| / sqrt(Var g_i) over the coordinates that vary (Rainforth et al. 2018,
                arXiv:1802.04537). The estimate of |E g_i| from R draws has a noise floor, so an snr below about
                sqrt(2 / (pi R)) carries no information.
    dsnr        E[|a| / |b|] with g = a + b, where a is parallel and b is perpendicular to t: the directional SNR of
                the same paper (eq. 12). The paper uses the direction of E g; both directions agree for an unbiased g.
                NaN for one coordinate, where b = 0, and for two coordinates, where the expectation is infinite.
    cosine      E[cos(g, t)], where g is a single draw.
    scale       (E g) . t / |t|^2, which is 1 for an unbiased g.
    max_abs_z   max_i |mean g_i - t_i| / standard error, over the coordinates that vary in every chunk or in no chunk.
                A coordinate that moves only in rare draws does not have a normal mean. For the same reason, every
                standard error counts as at least a fiftieth of its layer's standard error, and skewness that makes a
                large |z| likely is removed. The bias along t includes all coordinates.
"""

from vae.diagnostics.comparison import Comparison as Comparison
from vae.diagnostics.comparison import compare as compare
from vae.diagnostics.cost import HostCalls as HostCalls
from vae.diagnostics.cost import evaluations as evaluations
from vae.diagnostics.cost import flops as flops
from vae.diagnostics.cost import host_calls as host_calls
from vae.diagnostics.cost import interleaved_seconds as interleaved_seconds
from vae.diagnostics.figures import FIGURES as FIGURES
from vae.diagnostics.figures import figures_by_chunk as figures_by_chunk
from vae.diagnostics.figures import report as report
from vae.diagnostics.intervals import Comparisons as Comparisons
from vae.diagnostics.intervals import compare_all as compare_all
from vae.diagnostics.intervals import critical_z as critical_z
from vae.diagnostics.intervals import figure_interval as figure_interval
from vae.diagnostics.intervals import interval as interval
from vae.diagnostics.intervals import resampling as resampling
from vae.diagnostics.intervals import students_t as students_t
from vae.diagnostics.moments import ROUNDING as ROUNDING
from vae.diagnostics.moments import Moments as Moments
from vae.diagnostics.moments import RunningMoments as RunningMoments
from vae.diagnostics.moments import Truth as Truth
from vae.diagnostics.moments import add_gradients as add_gradients
from vae.diagnostics.moments import draw_gradients as draw_gradients
from vae.diagnostics.moments import exactly as exactly
from vae.diagnostics.moments import gradient_moments as gradient_moments
from vae.diagnostics.moments import groups as groups
from vae.diagnostics.moments import join_chunks as join_chunks
from vae.diagnostics.moments import make_gradient as make_gradient
from vae.diagnostics.moments import no_moments as no_moments
from vae.diagnostics.moments import parts as parts
from vae.diagnostics.moments import reference as reference
from vae.diagnostics.references import MAX_TERMS as MAX_TERMS
from vae.diagnostics.references import choose_reference as choose_reference
from vae.diagnostics.references import has_few_states as has_few_states
from vae.diagnostics.verdicts import bias_figures as bias_figures
from vae.diagnostics.verdicts import choose_best as choose_best
from vae.diagnostics.verdicts import compare_products as compare_products
from vae.diagnostics.verdicts import is_always_zero as is_always_zero
from vae.diagnostics.verdicts import is_biased as is_biased
from vae.diagnostics.verdicts import is_equal as is_equal
from vae.diagnostics.verdicts import is_exact as is_exact
from vae.diagnostics.verdicts import judge as judge
from vae.diagnostics.verdicts import ranked_variance as ranked_variance
