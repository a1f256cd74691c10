"""The entries of estimators for bits, classes and counts alone. table.py puts them into the table."""

from vae.estimators.arm import arm
from vae.estimators.arms import arms
from vae.estimators.arsm import arsm
from vae.estimators.bitflip import bitflip
from vae.estimators.carms import carms
from vae.estimators.disarm import disarm
from vae.estimators.disarm_iw import disarm_iw
from vae.estimators.double_cv import double_cv
from vae.estimators.eat import eat
from vae.estimators.entry import EVERY_BOUND, Entry
from vae.estimators.gapped_st import gapped_st
from vae.estimators.generalized_st import generalized_st
from vae.estimators.gumbel_rao import gumbel_rao
from vae.estimators.gumbel_softmax import gumbel_softmax
from vae.estimators.local_expectation import local_expectation
from vae.estimators.rao_blackwell_top_k import rao_blackwell_top_k
from vae.estimators.rebar import rebar
from vae.estimators.reinmax import reinmax
from vae.estimators.reinmax_rao import reinmax_rao
from vae.estimators.relax import relax
from vae.estimators.rodeo import rodeo
from vae.estimators.st_gumbel_softmax import st_gumbel_softmax
from vae.estimators.straight_through import straight_through
from vae.estimators.unordered_set import unordered_set

BITS = ("Bernoulli",)
CLASSES = ("Categorical",)
DISCRETE = BITS + CLASSES
COUNTS = ("Poisson",)

ENTRIES = {
    # Discrete latents: relaxations and straight-through estimators.
    "gumbel_softmax": Entry(
        gumbel_softmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        twice_differentiable=True,
        display="Gumbel-Softmax",
        paper="Jang, Gu & Poole (2016), arXiv:1611.01144",
        also=("Concrete",),
    ),
    "st_gumbel_softmax": Entry(
        st_gumbel_softmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="ST Gumbel-Softmax",
        paper="Jang, Gu & Poole (2016), arXiv:1611.01144",
    ),
    "gumbel_rao": Entry(
        gumbel_rao,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="Gumbel-Rao",
        paper="Paulus, Maddison & Krause (2020), arXiv:2010.04838",
    ),
    "gapped_st": Entry(
        gapped_st,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="Gapped ST",
        paper="Fan et al. (2022), arXiv:2206.07235",
        also=("GST-1.0",),
    ),
    "straight_through": Entry(
        straight_through,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="Straight-through",
        paper="Bengio, Leonard & Courville (2013), arXiv:1308.3432",
    ),
    "reinmax": Entry(
        reinmax,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="ReinMax",
        paper="Liu, Dong, Liu, Yu & Gao (2023), arXiv:2304.08612",
    ),
    "reinmax_rao": Entry(
        reinmax_rao,
        latents=DISCRETE,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="ReinMax-Rao",
        paper="Wang & Bui (2026), arXiv:2603.08257",
    ),
    "generalized_st": Entry(
        generalized_st,
        latents=CLASSES,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        display="Generalized ST",
        paper="Hooper & Shekhovtsov (2026), openreview:5LZQfHUVER",
        also=("minimum-variance ST",),
    ),
    "eat": Entry(
        eat,
        latents=COUNTS,
        reductions=EVERY_BOUND,
        biased=True,
        differentiates_f=True,
        twice_differentiable=True,
        display="EAT",
        paper="Vafaii, Galor & Yates (2024), arXiv:2405.14473",
        also=("exponential arrival times", "Poisson reparameterization"),
    ),
    # Discrete latents: control variates and coupled samples.
    "rebar": Entry(
        rebar, latents=DISCRETE, differentiates_f=True, display="REBAR", paper="Tucker et al. (2017), arXiv:1703.07370"
    ),
    "relax": Entry(
        relax,
        latents=DISCRETE,
        differentiates_f=True,
        display="RELAX",
        paper="Grathwohl et al. (2017), arXiv:1711.00123",
    ),
    "arm": Entry(
        arm,
        latents=BITS,
        reductions=EVERY_BOUND,
        min_samples=2,
        display="ARM",
        paper="Yin & Zhou (2018), arXiv:1807.11143",
    ),
    "disarm": Entry(
        disarm,
        latents=BITS,
        reductions=EVERY_BOUND,
        min_samples=2,
        display="DisARM",
        paper="Dong, Mnih & Tucker (2020), arXiv:2006.10680",
        also=("U2G", "local DisARM"),
    ),
    "arms": Entry(arms, latents=BITS, min_samples=2, display="ARMS", paper="Dimitriev & Zhou (2021), arXiv:2105.14141"),
    "disarm_iw": Entry(
        disarm_iw,
        latents=CLASSES,
        reductions=EVERY_BOUND,
        min_samples=2,
        display="DisARM-IW",
        paper="Dong, Mnih & Tucker (2021), arXiv:2106.08056",
    ),
    "carms": Entry(
        carms, latents=CLASSES, min_samples=2, display="CARMS", paper="Dimitriev & Zhou (2021), arXiv:2110.14002"
    ),
    "arsm": Entry(arsm, latents=CLASSES, display="ARSM", paper="Yin, Yue & Zhou (2019), arXiv:1905.01413"),
    "double_cv": Entry(
        double_cv,
        latents=DISCRETE,
        min_samples=2,
        differentiates_f=True,
        display="Double CV",
        paper="Titsias & Shi (2022), arXiv:2111.05300",
    ),
    "rodeo": Entry(
        rodeo,
        latents=DISCRETE,
        min_samples=2,
        differentiates_f=True,
        display="RODEO",
        paper="Shi, Zhou, Hwang, Titsias & Mackey (2022), arXiv:2202.09497",
    ),
    # Discrete latents: f at systematically chosen states.
    "local_expectation": Entry(
        local_expectation,
        latents=DISCRETE,
        display="Local expectation",
        paper="Titsias & Lázaro-Gredilla (2015), arXiv:1503.01494",
        also=("IndeCateR", "RAM", "GO for bits"),
    ),
    "bitflip": Entry(
        bitflip,
        latents=BITS,
        display="BitFlip",
        paper="Kunes et al. (2022), arXiv:2208.06124",
        also=("pruned stochastic triples",),
    ),
    "rao_blackwell_top_k": Entry(
        rao_blackwell_top_k,
        latents=CLASSES,
        display="Rao-Blackwell, top k",
        paper="Liu et al. (2018), arXiv:1810.04777",
    ),
    "unordered_set": Entry(
        unordered_set,
        latents=CLASSES,
        display="Unordered set",
        paper="Kool, van Hoof & Welling (2020), arXiv:2002.06043",
    ),
}
