"""The table of all estimators, with one entry each.

The command line, the tests, the READMEs and the figures take their lists of estimators from this table. To add an
estimator, write a file and add an entry here; the entries of estimators for bits, classes and counts alone are in
table_of_discrete.py. entry.py explains the fields.
"""

from vae.estimators.auto import auto
from vae.estimators.diveq import diveq
from vae.estimators.dreg import dreg
from vae.estimators.entry import EVERY_BOUND, Entry, add
from vae.estimators.exact import exact
from vae.estimators.gdreg import gdreg
from vae.estimators.leave_one_out import leave_one_out
from vae.estimators.measure_valued import measure_valued
from vae.estimators.mlmc import mlmc
from vae.estimators.muprop import muprop
from vae.estimators.nsvq import nsvq
from vae.estimators.nvil import nvil
from vae.estimators.ovis import ovis
from vae.estimators.reinforce import reinforce
from vae.estimators.reinforce_ema import reinforce_ema
from vae.estimators.reparam import reparam
from vae.estimators.reparam_antithetic import reparam_antithetic
from vae.estimators.reparam_linear_cv import reparam_linear_cv
from vae.estimators.reparam_rqmc import reparam_rqmc
from vae.estimators.rotation import rotation
from vae.estimators.stl import stl
from vae.estimators.sumo import sumo
from vae.estimators.table_of_discrete import COUNTS, DISCRETE
from vae.estimators.table_of_discrete import ENTRIES as ENTRIES_OF_DISCRETE
from vae.estimators.vimco import vimco
from vae.estimators.vimco_star import vimco_star
from vae.estimators.vq_straight_through import vq_straight_through
from vae.estimators.wake_sleep import wake_sleep
from vae.estimators.wake_sleep_dreg import wake_sleep_dreg

REPARAMETERIZABLE = ("reparameterizable",)
GAUSSIAN = ("Normal", "MultivariateNormal")
FROM_GAUSSIAN_NOISE = (*GAUSSIAN, "LowRankNormal", "Flow")
MULTI_SAMPLE = ("log_mean_exp",)
CODES = ("Quantized",)

ENTRIES = {
    # Continuous latents: pathwise gradients.
    "reparam": Entry(
        reparam,
        latents=REPARAMETERIZABLE,
        reductions=EVERY_BOUND,
        differentiates_f=True,
        twice_differentiable=True,
        display="Reparameterization",
        paper="Kingma & Welling (2013), arXiv:1312.6114",
        also=("pathwise", "implicit reparameterization", "SGVB", "rsample"),
    ),
    "stl": Entry(
        stl,
        latents=REPARAMETERIZABLE,
        differentiates_f=True,
        needs_log_q=True,
        display="STL",
        paper="Roeder, Wu & Duvenaud (2017), arXiv:1703.09194",
        also=("sticking the landing", "path gradient"),
    ),
    "dreg": Entry(
        dreg,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        differentiates_f=True,
        display="DReG",
        paper="Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152",
        also=(
            "doubly reparameterized",
            "TVO-DReG (with the objective thermodynamic)",
            "VR-IWAE-DReG (with the objective renyi)",
            "DREP",
        ),
    ),
    "gdreg": Entry(
        gdreg,
        latents=REPARAMETERIZABLE,
        reductions=EVERY_BOUND,
        differentiates_f=True,
        needs_prior=True,
        display="GDReG",
        paper="Bauer & Mnih (2021), arXiv:2101.11046",
        also=("generalized DReG",),
    ),
    "mlmc": Entry(
        mlmc,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        min_samples=2,
        differentiates_f=True,
        display="MLMC",
        paper="Shi & Cornish (2021), PMLR 130:3925",
        also=("multilevel Monte Carlo",),
    ),
    "sumo": Entry(
        sumo,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        min_samples=2,
        differentiates_f=True,
        needs_log_q=True,
        display="SUMO",
        paper="Luo et al. (2020), arXiv:2004.00353",
        also=("Russian roulette",),
    ),
    "reparam_antithetic": Entry(
        reparam_antithetic,
        latents=FROM_GAUSSIAN_NOISE,
        min_samples=2,
        differentiates_f=True,
        twice_differentiable=True,
        display="Antithetic reparameterization",
        paper="Wu, Goodman & Ermon (2019), arXiv:1810.02555",
    ),
    "reparam_rqmc": Entry(
        reparam_rqmc,
        latents=FROM_GAUSSIAN_NOISE,
        differentiates_f=True,
        twice_differentiable=True,
        display="RQMC reparameterization",
        paper="Buchholz, Wenzel & Mandt (2018), arXiv:1807.01604",
    ),
    "reparam_linear_cv": Entry(
        reparam_linear_cv,
        latents=("Normal",),
        differentiates_f=True,
        display="Reparameterization, linear CV",
        paper="Miller et al. (2017), arXiv:1705.07880",
    ),
    "measure_valued": Entry(
        measure_valued,
        latents=("Normal", "Bernoulli", *COUNTS),
        display="Measure-valued",
        paper="Mohamed et al. (2020), arXiv:1906.10652",
    ),
    # Any latents: the score function.
    "reinforce": Entry(
        reinforce,
        reductions=EVERY_BOUND,
        display="REINFORCE",
        paper="Ranganath, Gerrish & Blei (2014), arXiv:1401.0118",
        also=("score function", "likelihood ratio", "BBVI"),
    ),
    "reinforce_ema": Entry(
        reinforce_ema,
        reductions=EVERY_BOUND,
        display="REINFORCE, moving average",
        paper="Mnih & Gregor (2014), arXiv:1402.0030",
    ),
    "nvil": Entry(nvil, reductions=EVERY_BOUND, display="NVIL", paper="Mnih & Gregor (2014), arXiv:1402.0030"),
    "leave_one_out": Entry(
        leave_one_out,
        reductions=EVERY_BOUND,
        min_samples=2,
        display="RLOO",
        paper="Salimans & Knowles (2014), arXiv:1401.1022",
        also=("VarGrad", "log-variance loss", "LOO"),
    ),
    "vimco": Entry(
        vimco, reductions=MULTI_SAMPLE, min_samples=2, display="VIMCO", paper="Mnih & Rezende (2016), arXiv:1602.06725"
    ),
    "vimco_star": Entry(
        vimco_star,
        reductions=MULTI_SAMPLE,
        min_samples=2,
        display="VIMCO-star",
        paper="Daudel et al. (2026), arXiv:2602.01412",
        also=("OVIS with gamma=0",),
    ),
    "ovis": Entry(
        ovis,
        reductions=MULTI_SAMPLE,
        biased=True,
        min_samples=2,
        needs_log_q=True,
        display="OVIS",
        paper="Liévin, Dittadi, Christensen & Winther (2020), arXiv:2008.01998",
    ),
    "muprop": Entry(
        muprop,
        latents=GAUSSIAN + DISCRETE,
        differentiates_f=True,
        display="MuProp",
        paper="Gu, Levine, Sutskever & Mnih (2015), arXiv:1511.05176",
    ),
    **ENTRIES_OF_DISCRETE,
    # Any or reparameterizable latents: the encoder has an objective of its own.
    "wake_sleep": Entry(
        wake_sleep,
        reductions=MULTI_SAMPLE,
        biased=True,
        min_samples=2,
        needs_log_q=True,
        display="RWS",
        paper="Bornschein & Bengio (2015), arXiv:1406.2751",
        also=("reweighted wake-sleep",),
    ),
    "wake_sleep_dreg": Entry(
        wake_sleep_dreg,
        latents=REPARAMETERIZABLE,
        reductions=MULTI_SAMPLE,
        biased=True,
        min_samples=2,
        differentiates_f=True,
        needs_log_q=True,
        display="RWS-DReG",
        paper="Tucker, Lawson, Gu & Maddison (2018), arXiv:1810.04152",
    ),
    # Quantized latents: another derivative in place of that of the nearest code.
    "vq_straight_through": Entry(
        vq_straight_through,
        latents=("Quantized", "Rounded"),
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="VQ straight-through",
        paper="van den Oord, Vinyals & Kavukcuoglu (2017), arXiv:1711.00937",
        also=("VQ-VAE", "FSQ"),
    ),
    "rotation": Entry(
        rotation,
        latents=CODES,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="Rotation trick",
        paper="Fifty et al. (2024), arXiv:2410.06424",
    ),
    "diveq": Entry(
        diveq,
        latents=CODES,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="DiVeQ",
        paper="Vali, Bäckström & Solin (2025), arXiv:2509.26469",
    ),
    "nsvq": Entry(
        nsvq,
        latents=CODES,
        biased=True,
        differentiates_f=True,
        display="NSVQ",
        paper="Vali & Bäckström (2022), doi:10.1109/ACCESS.2022.3147670",
    ),
    # One of several others, which it measures.
    "auto": Entry(
        auto,
        latents=REPARAMETERIZABLE + DISCRETE,
        reductions=EVERY_BOUND,
        differentiates_f=True,
        chooses=True,
        display="Auto",
        paper="this project",
    ),
    # The exact answer, for small problems.
    "exact": Entry(
        exact,
        latents=GAUSSIAN + DISCRETE + COUNTS,
        reductions=EVERY_BOUND,
        differentiates_f=GAUSSIAN,
        twice_differentiable=True,
        display="Exact",
        paper="a sum over all states, or quadrature",
    ),
}

for _name, _entry in ENTRIES.items():
    add(_name, _entry)
