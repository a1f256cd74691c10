"""The picture of the trick agrees with closed forms and finite differences, and shows what a sampler blocks."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from experiments.gradient_flow import __main__ as gradient_flow
from experiments.gradient_flow import graph, picture
from tests.helpers.report_pages import run_command
from vae import distributions as dist
from vae import models, objectives
from vae.estimators import Estimate

BEFORE, AFTER = gradient_flow.SAMPLERS.values()
THROUGH_Z = {("mu", "z"), ("log_var", "z"), ("eps", "z")}
EDGES = THROUGH_Z | {
    *(("phi", "mu"), ("phi", "log_var"), ("mu", "KL"), ("log_var", "KL"), ("z", "reconstruction")),
    *(("theta", "reconstruction"), ("reconstruction", "loss"), ("KL", "loss")),
}


@pytest.fixture(scope="module")
def one_datum():
    model = models.make_vae((4, 4, 1), latent_dim=1, hidden=(5,), activation="tanh")
    key_x, key_params, key_z = jax.random.split(jax.random.key(3), 3)
    x = np.float32(jax.random.uniform(key_x, (1, 4, 4, 1)))
    params = jax.jit(model.init)(key_params, x, key_z)
    measure = lambda sampler: graph.measure(model, params, x, key_z, sampler)
    return SimpleNamespace(
        model=model, params=params, x=x, key=key_z, measure=measure, before=measure(BEFORE), after=measure(AFTER)
    )


def styles(measured):
    return {(edge.source, edge.target): picture.arrival(edge) for edge in graph.edge_norms(measured)}


def decode(vae, z):
    """log p(x|z), and its derivative in z."""
    log_likelihood = lambda z: jnp.sum(vae.model.apply(vae.params, vae.x, z, method="log_likelihood"))
    return jax.device_get(jax.jit(jax.value_and_grad(log_likelihood))(z))


def reconstruction(vae, mu, log_var):
    """log p(x|z) with z from the formula of the trick and from the graph's eps."""
    return decode(vae, np.asarray(mu) + np.exp(0.5 * np.asarray(log_var)) * vae.after.values["eps"])[0]


def test_both_graphs_have_the_same_edges_and_values(one_datum):
    assert set(one_datum.before.gradients) == set(one_datum.after.gradients) == EDGES
    jax.tree.map(np.testing.assert_array_equal, one_datum.before.values, one_datum.after.values)


def test_the_values_of_the_nodes_are_those_of_the_model(one_datum):
    values = one_datum.after.values

    @jax.jit
    def of_model(params):
        q = one_datum.model.apply(params, one_datum.x, method="encode")
        return q, q.rsample(one_datum.key, 1), dist.kl(q, dist.Normal(jnp.zeros(1), jnp.zeros(1)))

    q, z, kl = of_model(one_datum.params)
    np.testing.assert_allclose(values["mu"], q.mean, rtol=1e-6)
    np.testing.assert_allclose(values["log_var"], q.log_var, rtol=1e-6)
    np.testing.assert_allclose(values["eps"], jax.random.normal(one_datum.key, (1, 1, 1)), rtol=1e-6)
    np.testing.assert_allclose(values["z"], z, rtol=1e-6)
    np.testing.assert_allclose(values["reconstruction"], [[decode(one_datum, values["z"])[0]]], rtol=1e-6)
    np.testing.assert_allclose(values["KL"], kl, rtol=1e-5)
    np.testing.assert_allclose(values["loss"], np.sum(np.subtract(values["KL"], values["reconstruction"])), rtol=1e-6)


def test_without_the_trick_the_path_is_cut_at_the_sampler(one_datum):
    drawn = styles(one_datum.before)
    assert {edge for edge, style in drawn.items() if style == "none"} == THROUGH_Z
    assert {drawn["phi", "mu"], drawn["phi", "log_var"], drawn["mu", "KL"], drawn["log_var", "KL"]} == {"KL"}
    assert {drawn["z", "reconstruction"], drawn["theta", "reconstruction"]} == {"reconstruction"}


def test_with_the_trick_the_reconstruction_reaches_mu_log_var_and_the_encoder(one_datum):
    drawn = styles(one_datum.after)
    by_kl = {("mu", "KL"), ("log_var", "KL"), ("KL", "loss")}
    assert drawn == {edge: "KL" if edge in by_kl else "reconstruction" for edge in EDGES}


def test_gradients_along_edges_equal_their_closed_forms(one_datum):
    values, gradients = jax.device_get((one_datum.after.values, one_datum.after.gradients))
    mu, log_var, eps = values["mu"], values["log_var"], values["eps"]
    from_z = -decode(one_datum, values["z"])[1]
    expected = {
        ("z", "reconstruction"): from_z,
        ("mu", "z"): from_z[0],
        ("log_var", "z"): (from_z * eps)[0] * 0.5 * np.exp(0.5 * log_var),
        ("eps", "z"): from_z * np.exp(0.5 * log_var),
        ("mu", "KL"): mu,
        ("log_var", "KL"): 0.5 * (np.exp(log_var) - 1),
        ("KL", "loss"): np.ones(1),
        ("reconstruction", "loss"): -np.ones((1, 1)),
    }
    for edge, value in expected.items():
        np.testing.assert_allclose(gradients[edge], value, rtol=1e-4, atol=1e-7, err_msg=str(edge))


@pytest.mark.parametrize("name", ["mu", "log_var"])
def test_the_gradient_through_z_equals_finite_differences_with_the_same_noise(one_datum, name):
    values, step = jax.device_get(one_datum.after.values), np.float32(0.02)
    at = lambda shift: reconstruction(one_datum, *(values[n] + shift * (n == name) for n in ("mu", "log_var")))
    slope = float(at(step) - at(-step)) / (2 * step)
    measured = one_datum.after.reconstruction[name, "z"].item()
    assert abs(slope) > 0.05, "a slope near zero would prove nothing"
    assert measured == pytest.approx(-slope, rel=0.01)


@pytest.mark.parametrize("sampler", [BEFORE, AFTER], ids=["before", "after"])
def test_gradients_along_edges_add_up_to_the_gradient_of_the_objective(one_datum, sampler):
    expect = lambda q, f, reduce: Estimate(reduce(f(sampler(q, one_datum.key))), jnp.zeros(()), {})
    loss = lambda params: -jnp.sum(objectives.elbo_analytic()(one_datum.model.apply, params, one_datum.x, expect).value)
    expected = jax.jit(jax.grad(loss))(one_datum.params)["params"]
    gradients = jax.device_get(one_datum.measure(sampler).gradients)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    encoder = gradients["phi", "mu"] + gradients["phi", "log_var"]
    np.testing.assert_allclose(encoder, flat(expected["encoder"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients["theta", "reconstruction"], flat(expected["decoder"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "blocked"),
    [
        (lambda q, key: stop_gradient(q.rsample(key, 1)), THROUGH_Z),
        (lambda q, key: dist.Normal(stop_gradient(q.mean), q.log_var).rsample(key, 1), {("mu", "z")}),
        (lambda q, key: dist.Normal(q.mean, stop_gradient(q.log_var)).rsample(key, 1), {("log_var", "z")}),
        (lambda q, key: q.sample(key, 1) + q.mean - stop_gradient(q.mean), {("log_var", "z"), ("eps", "z")}),
        (jax.jit(lambda q, key: q.rsample(key, 1)), set()),
    ],
    ids=["stopped", "mean stopped", "log_var stopped", "sampler that leaks the mean", "jitted"],
)
def test_the_picture_shows_which_gradients_a_sampler_blocks(one_datum, sampler, blocked):
    measured = one_datum.measure(sampler)
    assert set(measured.gradients) == EDGES
    assert {edge for edge, style in styles(measured).items() if style == "none"} == blocked


def test_the_command_writes_the_picture_and_the_gradients_that_do_not_arrive(tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    (tmp_path / "precious").write_text("mine")
    (folder / "gradient_flow.json").symlink_to(tmp_path / "precious")
    run_command(gradient_flow, f"--output={folder}")
    assert (tmp_path / "precious").read_text() == "mine"  # the file replaces the link
    assert sorted(p.name for p in folder.iterdir()) == [f"gradient_flow.{kind}" for kind in ("json", "pdf", "png")]
    panels = json.loads((folder / "gradient_flow.json").read_text())["panels"]
    cut = {
        name: {(e["source"], e["target"]) for e in panel["edges"] if not e["arrives"]} for name, panel in panels.items()
    }
    assert cut == {"without the trick": THROUGH_Z, "with the trick": set()}
    assert capsys.readouterr().out.rstrip().endswith(f"open {folder / 'gradient_flow.png'}")


def test_a_folder_that_cannot_be_made_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        run_command(gradient_flow, f"--output={tmp_path}/file")
    assert stopped.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
