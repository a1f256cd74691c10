"""Semi-supervised learning of digits with few labels: M2, with several gradient estimators for the class.

    python -m experiments.semi_supervised                                         # 100 labels, ten seeds
    python -m experiments.semi_supervised --estimators=exact,leave_one_out --labels=50

The estimators in --estimators are for the class y of the unlabelled images; z is reparameterized, so `exact` means
`exact+reparam`. The row "labels alone" is the control: the same classifier without the unlabelled images.

The command writes results.csv, results.md, config.json and figures/styles.png into --output. The figure shows images of
the first estimator: a style in each row, and a class in each column. The figures of each estimator are stored in store/
as soon as it is trained; the same command continues from there, and so does a command with other --estimators.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax import Array

from experiments.common import cli, files, grammar, phases, provenance, store, tables
from experiments.semi_supervised import model
from experiments.semi_supervised.model import CLASSES, M2
from vae import data as datasets
from vae import diagnostics, estimators

CONTROL = "labels alone"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags in `values`."""
    whole = lambda name, default, help: flags.DEFINE_integer(name, default, help, lower_bound=1, flag_values=values)
    flags.DEFINE_list(
        "estimators",
        ["exact", "leave_one_out", "reinmax", "gumbel_softmax"],
        "Estimators of the class of an unlabelled image, comma-separated, with options.",
        flag_values=values,
    )
    whole("labels", 100, "Number of labelled images: equally many of each class, so a multiple of 10.")
    whole("seeds", 10, "Number of seeds. A seed chooses the labelled images, the parameters and the noise.")
    whole("epochs", 60, "Number of passes over the training images.")
    whole("batch_size", 100, "Number of unlabelled images in a step. Every step has all labelled images.")
    whole("latent_dim", 4, "Number of dimensions of the style z.")
    whole("hidden", 64, "Width of the hidden layer of every network.")
    flags.DEFINE_float("alpha", 10.0, "Weight of log q(y|x) of a labelled image.", 0.0, flag_values=values)
    flags.DEFINE_float("learning_rate", 3e-3, "Learning rate of Adam.", 1e-12, flag_values=values)
    flags.DEFINE_string("output", "results/semi_supervised", "Folder of the results.", flag_values=values)


class Digits(NamedTuple):
    """The digits of scikit-learn, in the splits of the data set `digits`: grey pixels in [0, 1], and classes."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load() -> Digits:
    digits = datasets.load("digits")
    pixels = partial(datasets.pixels, levels=digits.levels)
    return Digits(pixels(digits.train), digits.labels["train"], pixels(digits.test), digits.labels["test"])


def choose_labelled(y: np.ndarray, labels: int, seed: int) -> np.ndarray:
    """The indices of the images that keep their label: as many of each class."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == c][: labels // CLASSES] for c in range(CLASSES)])


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains, and writes the table and the figure. Bad input ends with one sentence and exit status 1."""
    started = time.perf_counter()
    with cli.one_sentence():
        digits = load()
        check_flags(values, digits)
        folder = Path(values.output)
        files.check_writable(folder, "output")
        gradients = {CONTROL: None} | {name: make_estimator(name) for name in values.estimators}

    # ---- The training, or what is stored
    vae = M2(values.latent_dim, (values.hidden,), digits.x[0].size)
    labelled = np.stack([choose_labelled(digits.y, values.labels, seed) for seed in range(values.seeds)])
    settings = cli.given(define_flags, values)
    shared = {name: value for name, value in settings.items() if name not in ("estimators", "output")}
    results = store.Store(folder / "store")
    trained = {}
    with cli.one_sentence(OSError):
        for name, gradient in gradients.items():
            digest = store.digest(estimator=name, settings=shared)
            measured = partial(train_and_measure, vae, name, gradient, digits, labelled, values)
            trained[name] = results.recall(digest, measured)

        # ---- The files
        control = trained[CONTROL]["figures"]["error_percent"]
        rows = [make_row(name, one["figures"], control, one.get("evaluations")) for name, one in trained.items()]
        write(folder, rows)
        draw(folder / "figures", vae, trained[values.estimators[0]]["params"])
        seconds = time.perf_counter() - started + results.earlier_seconds
        files.write_json(folder / "config.json", provenance.describe_measurement(settings, seconds))


def check_flags(values: flags.FlagValues, digits: Digits) -> None:
    """Checks the values of the flags.

    Raises:
      ValueError: If a flag has a bad value.
    """
    if not values.estimators:
        raise ValueError("--estimators is empty; leave it out for its default")
    grammar.check_list(values.estimators, "estimators")
    most = CLASSES * int(np.bincount(digits.y).min())
    if values.labels % CLASSES or values.labels > most:
        raise ValueError(f"--labels={values.labels} must be a multiple of {CLASSES} and at most {most}")
    if values.batch_size > len(digits.x):
        raise ValueError(f"--batch_size={values.batch_size} is larger than the {len(digits.x)} training images")


def make_estimator(name: str) -> estimators.Estimator:
    """The estimator of y and z, from the name of the estimator of y.

    Raises:
      ValueError: If there is no such estimator, or it is not for classes and the mean.
    """
    try:
        choice = grammar.choose(f"{name}+reparam", estimators.BY_NAME)
        gradient = grammar.build(choice, estimators.BY_NAME, num_samples=1)
    except ValueError as error:
        raise ValueError(f"--estimators={name}: {error}") from None
    if len(choice.blocks) > 2:
        raise ValueError(f"--estimators={name} must be one estimator, that of the class; the style has reparam")
    q = model.distributions.Categorical(jnp.zeros((1, 1, CLASSES)))
    if refusal := estimators.BY_NAME.find(choice.blocks[0].name).refusal(q, log_q_weight=1.0):
        raise ValueError(f"--estimators={name}: {refusal}")
    return gradient


def train(vae: M2, gradient: estimators.Estimator | None, digits: Digits, labelled: np.ndarray, values):
    """The parameters after training, with a leading axis of seeds; without an estimator, of the classifier alone."""
    one_hot = np.eye(CLASSES, dtype=np.float32)[digits.y][:, None]
    x = jnp.asarray(digits.x)
    share = values.labels / len(x)
    tx = optax.adam(values.learning_rate)

    def loss(params, state, key, batch, x_labelled, y_labelled):
        key_unlabelled, key_labelled = jax.random.split(key)
        classified = jnp.mean(model.log_prob_of_labels(vae.apply, params["model"], x_labelled, y_labelled))
        if gradient is None:
            return -classified, state
        expect = estimators.bind(gradient, params["estimator"], state, key_unlabelled, context=batch)
        unlabelled = model.unlabelled_bound(vae.apply, params["model"], batch, expect)
        bound = model.labelled_bound(vae.apply, params["model"], x_labelled, y_labelled, key_labelled)
        mean = jnp.mean(unlabelled.value) + share * jnp.mean(bound) + values.alpha * classified
        return unlabelled.cv_loss - mean, unlabelled.state

    @jax.jit
    def run(seed: Array, chosen: Array):
        key_model, key_estimator, key_order, key_steps = jax.random.split(jax.random.key(seed), 4)
        variables = vae.init(key_model, x[: values.batch_size])
        learned, state = {}, {}
        if gradient is not None:
            q = vae.apply(variables, x[: values.batch_size], method="encode")
            learned, state = gradient.init(key_estimator, q, x[: values.batch_size])
        params = {"model": variables, "estimator": learned}
        x_labelled, y_labelled = x[chosen], jnp.asarray(one_hot)[chosen]

        def epoch(carry, number):
            order = jax.random.permutation(jax.random.fold_in(key_order, number), len(x))
            steps = len(x) // values.batch_size

            def step(carry, index):
                params, opt_state, state = carry
                batch = x[jax.lax.dynamic_slice_in_dim(order, index * values.batch_size, values.batch_size)]
                key = jax.random.fold_in(key_steps, number * steps + index)
                grads, state = jax.grad(loss, has_aux=True)(params, state, key, batch, x_labelled, y_labelled)
                updates, opt_state = tx.update(grads, opt_state)
                return (optax.apply_updates(params, updates), opt_state, state), None

            return jax.lax.scan(step, carry, jnp.arange(steps))[0], None

        carry, _ = jax.lax.scan(epoch, (params, tx.init(params), state), jnp.arange(values.epochs))
        return carry[0]["model"]

    runs = [run(seed, chosen) for seed, chosen in enumerate(labelled)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)


def train_and_measure(
    vae: M2, name: str, gradient: estimators.Estimator | None, digits: Digits, labelled: np.ndarray, values
) -> dict[str, Any]:
    """What is stored of an estimator: its figures, its evaluations of f, and the parameters of the first seed."""
    phases.say(f"training, {name}")
    params = train(vae, gradient, digits, labelled, values)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    result = {"figures": measure(vae, params, digits), "params": first}
    if gradient is not None:
        result["evaluations"] = count_evaluations(vae, gradient, first, jnp.asarray(digits.x_test))
    return result


def measure(vae: M2, params, digits: Digits) -> dict[str, np.ndarray]:
    """The test error in percent and the ELBO in nats of each seed, `[seeds]`."""
    x = jnp.asarray(digits.x_test)
    expect = estimators.bind(make_estimator("exact"), ({}, {}), ({}, {}), jax.random.key(1))

    def of_seed(params):
        wrong = jnp.argmax(vae.apply(params, x, method="encode").first.logits[:, 0], axis=-1) != digits.y_test
        elbo = model.unlabelled_bound(vae.apply, params, x, expect).value
        return {"error_percent": 100 * jnp.mean(wrong), "elbo_nats": jnp.mean(elbo)}

    return jax.tree.map(np.float64, jax.lax.map(of_seed, params))


def make_row(name: str, figures: dict[str, np.ndarray], control: np.ndarray, evaluations: int | None) -> dict:
    """Means over the seeds, and their standard errors. `control` is the test error of the labels alone, by seed."""
    row = {"estimator": name, "seeds": len(control), "evaluations": evaluations}
    if evaluations:
        figures = figures | {"gain_percent": control - figures["error_percent"]}
    else:
        figures = {"error_percent": control}
    for key, numbers in figures.items():
        error = np.std(numbers, ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else np.nan
        row |= {key: float(np.mean(numbers)), f"{key}_se": float(error)}
    return row


def count_evaluations(vae: M2, gradient: estimators.Estimator, params, x: Array) -> int:
    """The evaluations of log p(x, y, z) for one unlabelled image."""
    bound = lambda params, x, expect: model.unlabelled_bound(vae.apply, params, x, expect)
    learned, state = gradient.init(jax.random.key(0), vae.apply(params, x, method="encode"), x)
    return diagnostics.evaluations(bound, gradient, jax.random.key(0), params, x, learned, state, x)


def write(folder: Path, rows: list[dict]) -> None:
    """Writes results.csv and results.md, and prints the table."""
    files.write_text(folder / "results.csv", tables.to_csv(rows))
    cells = [["estimator of y", "evaluations", "test error (%)", "gain over labels alone (%)", "ELBO (nats)"]]
    for row in rows:
        figures = ("error_percent", "gain_percent", "elbo_nats")
        texts = [tables.plus_minus(row[key], row[f"{key}_se"]) if key in row else "-" for key in figures]
        cells.append([row["estimator"], str(row["evaluations"] or "-"), *texts])
    text = f"{tables.to_markdown(cells)}\n"
    files.write_text(folder / "results.md", text)
    print(text)


def draw(folder: Path, vae: M2, params) -> None:
    """Draws figures/styles.png: each row has one style z, and each column one class."""
    phases.say("drawing")
    with cli.drawing(folder):
        from experiments.common import plots  # matplotlib takes a second to import

        styles = 8
        z = jax.random.normal(jax.random.key(2013), (styles, 1, vae.latent_dim))
        y = jnp.eye(CLASSES)[:, None]
        samples = (jnp.broadcast_to(y, (styles, *y.shape)), jnp.repeat(z, CLASSES, axis=1))
        means = vae.apply(params, samples, method="decode").mean
        side = int(np.sqrt(vae.pixels))
        plots.save(plots.image_grid(np.asarray(means).reshape(-1, side, side, 1), columns=CLASSES), folder / "styles")
        print(f"figure: {folder / 'styles.png'}")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, resumes=True)
