"""The pages of vae/ are true: their code runs, what they add works, their tables are those of the code, and what they
tell a newcomer to read is short."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vae
from experiments.common import build, settings
from tests.helpers import oracle, pages
from vae import estimators
from vae.estimators.__main__ import table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "vae/README.md").read_text()
SECTIONS = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))
# The lines, not counting blank ones, that somebody may have to read before adding the thing.
LIMITS = {"an estimator": 320, "a posterior": 550, "a network": 320, "a data set": 150, "an objective": 150}
LIMITS |= {"an optimizer or a schedule": 150}
OTHER_LIBRARIES = PAGE.split("## With another library")[1].split("\n## ")[0]
FOLDERS = ("estimators", "models", "data", "diagnostics")


@pytest.mark.parametrize("section", LIMITS)
def test_what_a_newcomer_must_read_is_short(section):
    [sentence] = re.findall(r"^Read ((?:`[^`]+`|,|and|\s)+)\.", SECTIONS[section], re.MULTILINE)
    files = re.findall(r"`([^`]+)`", sentence)
    assert pages.lines_to_read(files) <= LIMITS[section]


def test_what_a_newcomer_must_read_to_understand_training_is_short():
    [sentence] = re.findall(r"how training works\n\nRead ((?:`[^`]+`|,|and|\s)+),", PAGE)
    assert pages.lines_to_read(re.findall(r"`([^`]+)`", sentence)) <= 900


def test_every_section_has_a_limit_and_one_whole_file():
    assert set(SECTIONS) == set(LIMITS)
    for name, text in SECTIONS.items():
        assert len(pages.blocks(text)) == 1, name


def test_the_first_script_has_25_lines():
    script = pages.blocks(PAGE)[0]
    assert len(script.splitlines()) <= 25
    assert "import vae\n" in script


def _run(blocks, namespace):
    """Runs the blocks in the namespace, which is returned."""
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_the_code_runs():
    """Every block that adds nothing, in order, in one namespace. What only computes arrays is run as one program."""
    text = PAGE
    for section in (*SECTIONS.values(), OTHER_LIBRARIES):
        text = text.replace(section, "")
    script, *parts = pages.blocks(text)
    assert len(parts) == 3
    namespace = _run([script], {})
    assert 20 < -namespace["log_p"].mean() < 30  # of 44 without training
    assert namespace["images"].shape == (64, 8, 8)
    arrays = ("gradient", "jacobians")
    gradient, jacobians = jax.jit(lambda: [_run(parts, namespace)[name] for name in arrays])()
    assert gradient.shape == (2, 3)
    assert jacobians["mean"].shape == (1000, 2)


class BitsInNNX(nnx.Module):
    def __init__(self):
        self.encoder = nnx.Linear(64, 8, rngs=nnx.Rngs(0))
        self.decoder = nnx.Linear(8, 64, rngs=nnx.Rngs(1))

    def encode(self, x):
        return vae.distributions.Bernoulli(self.encoder(x.reshape(len(x), -1)))

    def log_likelihood(self, x, z):
        return vae.distributions.Bernoulli(self.decoder(z)).log_prob(x.reshape(len(x), -1))

    def prior_distribution(self):
        return vae.distributions.Bernoulli(jnp.zeros(8))


@pytest.mark.parametrize("library", ["def encode(params", "import nnx"])
def test_a_model_of_another_library_trains(library):
    x = vae.data.pixels(vae.data.load("digits").train, 17)
    names = {"vae": vae, "jax": jax, "jnp": jnp, "x": x, "optimizer": optax.adam(1e-2), "model": BitsInNNX()}
    blocks = [block for block in pages.blocks(OTHER_LIBRARIES) if library in block or "TrainState" in block]
    namespace = _run(blocks, names)
    state, metrics = namespace["epoch"](namespace["state"], jax.random.key(1), x)  # the second epoch
    assert int(state.step) == 2 * (len(x) // 128)
    assert metrics["bound"] > namespace["metrics"]["bound"] > -44.4  # of fair bits
    assert metrics["bound"] > -40


@pytest.mark.usefixtures("restored_tables")
def test_the_code_of_the_page_of_estimators_runs():
    """As one program."""
    blocks = pages.blocks((ROOT / "vae/estimators/README.md").read_text())
    value = jax.jit(lambda: _run(blocks, {})["estimate"].value)()
    assert value.shape == (2,)


def test_the_code_of_the_page_of_models_runs():
    [block] = [
        block for block in pages.blocks((ROOT / "vae/models/README.md").read_text()) if "ConditionalVAE" in block
    ]
    namespace = _run([block], {})
    assert -22 < namespace["metrics"]["bound"] < -20
    assert -22 < namespace["log_p"].mean() < -20


@pytest.mark.usefixtures("restored_tables")
def test_the_code_of_the_page_of_diagnostics_runs():
    namespace = _run(pages.blocks((ROOT / "vae/diagnostics/README.md").read_text()), {})
    assert abs(namespace["figures"]["scale"] - 1) < 0.1


@pytest.mark.usefixtures("restored_tables")
@pytest.mark.parametrize(
    ("page", "name", "family"),
    [
        ("vae", "mirrored", "Normal"),
        ("vae", "mirrored", "Laplace"),
        ("vae/estimators", "learned_constant", "Bernoulli"),
        ("vae/estimators", "score_by_hand", "Categorical"),
    ],
)
def test_the_estimators_to_add_are_unbiased(page, name, family):
    [block] = [block for block in pages.blocks((ROOT / page / "README.md").read_text()) if f"def {name}" in block]
    estimator = _run([block], {})[name](num_samples=2)
    exact = oracle.oracle(family, "mean", 2)
    oracle.assert_unbiased(estimator, oracle.problem(family), vae.mean, exact)


def test_samples_and_parameters_have_the_shapes_on_the_page():
    page = (ROOT / "vae/estimators/README.md").read_text()
    [(logits, z)] = re.findall(r"^\| `Categorical` +\| `logits \[(.*?)\]` +\| `\[(.*?)\]`, one-hot", page, re.MULTILINE)
    sizes = {"K": 5, "*batch": 2, "D": 3, "C": 4}
    shape = lambda text: tuple(sizes[name] for name in text.split(", "))
    q = vae.distributions.Categorical(np.zeros(shape(logits), np.float32))
    samples = np.asarray(jax.jit(q.sample, static_argnums=1)(jax.random.key(0), 5))
    assert samples.shape == shape(z)
    np.testing.assert_array_equal(samples.sum(axis=-1), 1)


def test_every_folder_and_file_is_on_the_page():
    section = PAGE.split("## Folders and files")[1].split("\n## ")[0]
    for path in (ROOT / "vae").iterdir():
        if path.name.startswith("__") or path.name == "README.md":
            continue
        assert f"`{path.name}/`" in section or f"`{path.name}`" in section, path.name


def test_names_in_the_tables_of_other_libraries_exist():
    rows = [line for line in PAGE.split("## If you come from")[1].splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        cell = row.strip("| ").split(" | ")[-1]
        for name in set(re.findall(r"`(\w+)`", cell)) - {"expect"}:
            assert name in estimators.BY_NAME or hasattr(estimators, name), name
    for path in re.findall(r"`vae\.([\w.]+)", PAGE):
        found = vae
        for name in path.split("."):
            found = getattr(found, name)


def test_the_table_of_estimators_is_that_of_the_code():
    page = (ROOT / "vae/estimators/TABLE.md").read_text()
    assert f"<!-- table: made by python -m vae.estimators -->\n{table()}\n<!-- /table -->" in page


def test_the_options_of_estimators_are_those_of_the_code():
    page = (ROOT / "vae/estimators/TABLE.md").read_text()
    section = page.split("<!-- options -->")[1].split("<!-- /options -->")[0]
    rows = re.findall(r"^\| `(\w+)` +\| `(\w+)` +\| (\S+) ", section, re.MULTILINE)
    signatures = {name: inspect.signature(entry.make).parameters for name, entry in estimators.BY_NAME.items()}
    expected = {
        (name, option, str(parameter.default))
        for name, parameters in signatures.items()
        for option, parameter in parameters.items()
        if option != "num_samples"
    }
    assert set(rows) == expected


def test_the_fields_of_an_entry_are_those_of_the_code():
    page = (ROOT / "vae/estimators/README.md").read_text()
    section = page.split("An entry is `Entry(make, ...)`")[1].split("\n#")[0]
    parameters = inspect.signature(estimators.Entry).parameters
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [name for name in parameters if name != "name"]


def test_the_tables_of_models_are_those_of_the_code():
    page = (ROOT / "vae/models/README.md").read_text()
    sections = {
        "Posteriors": vae.models.POSTERIORS,
        "Priors": vae.models.PRIORS,
        "Likelihoods": vae.models.LIKELIHOODS,
        "Networks": None,
    }
    for heading, names in sections.items():
        section = page.split(f"## {heading}")[1].split("\n## ")[0]
        named = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
        if names is None:
            assert named == [*vae.models.ARCHITECTURES, *vae.models.ACTIVATIONS]
            continue
        assert named == list(names)
        for name in named:
            [row] = re.findall(rf"^\| `{name}` .*$", section, re.MULTILINE)
            assert set(re.findall(r"`(\w+)=", row)) == set(names.options(name)), name


def test_the_data_sets_are_those_of_the_code():
    page = (ROOT / "vae/data/README.md").read_text()
    assert set(vae.data.DATASETS) <= set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert set(vae.data.BINARIZATIONS) <= set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))


@pytest.mark.usefixtures("restored_tables")
def test_what_the_page_adds_is_known_by_its_name():
    for text in SECTIONS.values():
        _run(pages.blocks(text), {})
    x = np.zeros((2, *vae.data.load("bars", size=4).train.shape[1:]), np.float32)
    model = vae.make_vae(x.shape[1:], 2, hidden=(3, 3), posterior="logistic", architecture="residual")
    gradient = vae.estimators.make("reparam", num_samples=2)
    step = vae.make_step(model.apply, vae.objectives.make("jackknife"), gradient, optax.sgd(0.1))
    state = jax.eval_shape(vae.make_init(model, gradient, optax.sgd(0.1), x), jax.random.key(0))
    stepped, metrics = jax.eval_shape(step, state, jax.random.key(1), x)
    assert jax.tree.structure(stepped) == jax.tree.structure(state)
    assert metrics["bound"].shape == ()
    assert vae.estimators.make("mirrored", num_samples=4)
    run = settings.from_json({"optimizer": "lion:b1=0.5", "schedule": "exponential", "epochs": 3})
    tx = build.optimizer(run, build.arrays(run), steps_per_epoch=10)
    updates, _ = tx.update({"w": np.float32(1)}, tx.init({"w": np.float32(0)}), {"w": np.float32(0)})
    assert updates["w"] == pytest.approx(-1e-3)


@pytest.mark.slow
def test_what_the_page_adds_trains(tmp_path):
    """All of it at once, as a package of the user's own."""
    package = tmp_path / "mine"
    package.mkdir()
    modules = []
    for number, text in enumerate(SECTIONS.values()):
        [block] = pages.blocks(text)
        (package / f"addition_{number}.py").write_text(block)
        modules.append(f"from mine import addition_{number}\n")
    (package / "__init__.py").write_text("".join(modules))
    short = ["--epochs=1", "--hidden=8", "--latent_dim=2", "--eval_samples=2", "--figures=none", "--import=mine"]
    for number, flags in enumerate(
        (
            ["--dataset=bars:size=6", "--posterior=logistic", "--objective=jackknife", "--num_samples=4"],
            ["--estimator=mirrored", "--objective=elbo", "--num_samples=2", "--architecture=residual"],
            ["--optimizer=lion:b1=0.95", "--schedule=exponential"],
        )
    ):
        command = [sys.executable, "-m", "experiments.train", *flags, *short, f"--workdir={tmp_path}/{number}"]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "-log p(x)" in done.stdout
