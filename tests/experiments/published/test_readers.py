"""A reader turns the folder that a script left into the columns of published.csv."""

import json
import math

import pytest

from experiments.common import tables
from experiments.common.settings import Settings
from experiments.published import __main__ as published
from experiments.published import readers
from tests.helpers.written_workdirs import (
    Written,
    change_result,
    write_laboratory,
    write_measurement,
    write_program,
    write_rows,
    write_sweep,
)


def collected(folder):
    """The new rows of published.csv, by the names of their results."""
    return {row["result"]: row for row in published.collect(folder, [])}


def set_clock(program, seconds):
    """Sets the seconds of training at the last evaluation of a program."""
    *rows, last = [json.loads(line) for line in (program / "timing.jsonl").read_text().splitlines()]
    write_rows(program / "timing.jsonl", [*rows, last | {"train_seconds": seconds}])


# Trained models


def write_flax_vae(results, seeds=3, finished=3):
    """The runs of reproduce_flax_vae.sh. The first two trained together, the third in a later command."""
    runs = [
        Written(
            Settings(binarization="static", dataset="mnist", seed=seed),
            shift=0.1 * seed,
            status="done" if seed < finished else None,
        )
        for seed in range(seeds)
    ]
    for i, members in enumerate((runs[:2], runs[2:])):
        if members:
            write_program(results / f"flax_vae/programs/{i}", members)
            set_clock(results / f"flax_vae/programs/{i}", 60 * (1 + i))


def test_runs_of_several_seeds_give_their_mean_and_its_standard_error(tmp_path):
    write_flax_vae(tmp_path)
    [row] = published.collect(tmp_path, [])
    assert row["obtained"] == "23.20 ± 0.06 nats (3 seeds)"
    assert (row["K"], row["data"]) == ("1; evaluated with 10", "mnist, static")
    assert (row["precision"], row["machine"], row["commit"]) == ("float32", "cpu, 2 cores", "abc")


def test_the_minutes_of_runs_that_trained_together_count_once(tmp_path):
    write_flax_vae(tmp_path)
    [row] = published.collect(tmp_path, [])
    assert row["minutes"] == "3.0"


@pytest.mark.parametrize(
    ("seeds", "finished", "sentence"),
    [
        (3, 2, "flax_vae has 2 finished of 3 runs; run the script again to finish it"),
        (2, 2, "flax_vae has 2 of 3 seeds; run the script again to finish it"),
    ],
)
def test_a_script_that_has_not_finished_gives_no_row_and_is_named(seeds, finished, sentence, tmp_path, capsys):
    write_flax_vae(tmp_path, seeds, finished)
    assert published.collect(tmp_path, []) == []
    assert sentence in capsys.readouterr().out


def test_a_folder_without_runs_gives_no_row_and_is_named(tmp_path, capsys):
    (tmp_path / "iwae").mkdir()
    assert published.collect(tmp_path, []) == []
    assert "holds no run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("figure", "samples"), [("test_nll_nats", 500), ("test_bits_per_dim", 500), ("test_elbo_nats", 10)]
)
def test_the_samples_of_a_figure_are_those_of_log_p_or_of_the_elbo(figure, samples, tmp_path):
    write_program(tmp_path, [Written(Settings(binarization="none", likelihood="discretized_logistic"))])
    assert readers.figure_over_seeds(figure)(tmp_path)["K"] == f"1; evaluated with {samples}"


def write_iwae(results):
    """The run of reproduce_iwae.sh --quick. Returns the folder of its program."""
    settings = {"dataset": "mnist", "latent_dim": (100, 50), "objective": "iwae", "num_samples": 5}
    return write_sweep(results / "iwae_quick", [(settings, 0.0)]) / "programs/0"


def test_active_units_are_shown_for_each_layer(tmp_path):
    change_result(write_iwae(tmp_path), 0, active_units_by_layer="21+5")
    [row] = published.collect(tmp_path, [])
    assert (row["obtained"], row["K"]) == ("22.12 nats, 21+5 units (1 seed)", "5; evaluated with 500")


def test_the_evaluation_with_the_most_samples_at_the_end_of_training_is_shown(tmp_path):
    program = write_iwae(tmp_path)
    evaluations = [(200, 5, 23.0), (200, 5000, 21.5), (200, 64, 22.5), (100, 10000, 21.0)]  # epoch, samples, nats
    rows = [{"run": 0} | dict(zip(("epoch", "eval_samples", "test_nll_nats"), one, strict=True)) for one in evaluations]
    write_rows(program / "evaluations.jsonl", rows)
    [row] = published.collect(tmp_path, [])
    assert row["obtained"].startswith("21.50 nats")
    assert row["K"] == "5; evaluated with 5000"


def test_of_evaluations_with_as_many_samples_the_last_is_shown(tmp_path):
    program = write_iwae(tmp_path)
    row = {"run": 0, "epoch": 200, "eval_samples": 5000}
    write_rows(program / "evaluations.jsonl", [row | {"test_nll_nats": nats} for nats in (21.5, 21.4)])
    [row] = published.collect(tmp_path, [])
    assert row["obtained"].startswith("21.40 nats")


# Rankings of trained models


def write_reinmax(results, estimators, *others):
    """Three seeds for each estimator with its shift in nats, and other runs of these settings."""
    points = [
        ({"estimator": name, "validation_size": 10, "seed": seed}, shift + 0.1 * seed)
        for name, shift in estimators.items()
        for seed in range(3)
    ]
    write_sweep(results / "reinmax", [*points, *((other, 0.0) for other in others)])


REINMAX = {"reinmax:temperature=1.3": 0.0, "st_gumbel_softmax:temperature=1.3": 0.7}


def test_a_ranking_shows_each_estimator_at_the_temperature_with_the_best_validation_bound(tmp_path):
    write_reinmax(tmp_path, REINMAX | {"reinmax:temperature=0.5": 9.0, "gumbel_softmax:temperature=0.5": 2.0})
    [row] = published.collect(tmp_path, [])
    assert row["obtained"] == (
        "reinmax:temperature=1.3 -24.20 ± 0.06, st_gumbel_softmax:temperature=1.3 -24.90 ± 0.06, "
        "gumbel_softmax -26.20 ± 0.06 nats (3 seeds)"
    )


def test_a_ranking_has_no_errors_if_one_of_its_settings_has_one_seed(tmp_path):
    write_reinmax(tmp_path, REINMAX, {"estimator": "gumbel_softmax", "validation_size": 10})
    row = readers.ranking("estimator", "validation_elbo_nats", ("reinmax",))(tmp_path / "reinmax")
    assert row["seeds"] == 1
    assert row["obtained"].endswith("st_gumbel_softmax:temperature=1.3 -24.90 nats (1 seed)")


def test_a_ranking_without_one_of_its_estimators_gives_no_row(tmp_path, capsys):
    write_reinmax(tmp_path, REINMAX)
    assert published.collect(tmp_path, []) == []
    assert "has no run of gumbel_softmax; run the script again to finish it" in capsys.readouterr().out


def test_a_ranking_of_runs_that_differ_in_other_settings_gives_no_row(tmp_path, capsys):
    other = {"estimator": "reinmax:temperature=1.3", "validation_size": 10, "learning_rate": 0.1}
    write_reinmax(tmp_path, REINMAX | {"gumbel_softmax:temperature=0.5": 2.0}, other)
    assert published.collect(tmp_path, []) == []
    assert "runs that differ in learning_rate; move all but one aside" in capsys.readouterr().out


def test_the_precision_of_a_row_names_every_precision_of_its_runs(tmp_path):
    alike = {"estimator": "gumbel_softmax", "validation_size": 10, "compute_dtype": "bfloat16"}
    write_reinmax(tmp_path, REINMAX, *(alike | {"seed": seed} for seed in range(3)))
    [row] = published.collect(tmp_path, [])
    assert row["precision"] == "float32, bfloat16"


# Measured gradients


def test_a_variance_is_shown_with_its_interval(tmp_path):
    rows = [
        {"problem": "quadratic", "cost_parameter": k, "estimator": name, "num_samples": 1, "phi_variance": 10 * k**2}
        | {"phi_variance_low": 9 * k**2, "phi_variance_high": 11 * k**2}
        for k in (-3.0, 1.0)
        for name in ("reparam", "reinforce")
    ]
    write_laboratory(tmp_path / "costs/quadratic", "phi", rows)
    (tmp_path / "costs/quadratic/pairs.csv").write_text("group,figure,first,second,cost_parameter\n")
    row = collected(tmp_path)["variance of the gradient of E (z + 3)^2: pathwise"]
    assert row["obtained"] == "90.00 [81.00, 99.00]"
    at_the_largest = readers.variance("phi", "reparam")(tmp_path / "costs/quadratic")
    assert at_the_largest["obtained"] == "10.00 [9.000, 11.00]"
    assert (row["K"], row["data"]) == ("1", "quadratic, 100 gradients")
    assert (row["minutes"], row["commit"], row["machine"]) == ("1.5", "0123456+", "cpu, 2 cores")


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [("reparam", "measure_valued", (2.0, 1.6, 2.5)), ("measure_valued", "reparam", (0.5, 0.4, 0.625))],
)
def test_a_ratio_of_variances_is_read_in_either_direction(first, second, ratio, tmp_path):
    rows = [
        {"problem": "quadratic", "cost_parameter": k, "estimator": name, "num_samples": 1}
        for k in (-3.0, 1.0)
        for name in ("reparam", "measure_valued")
    ]
    write_laboratory(tmp_path, "phi", rows)
    names = {"group": "phi", "figure": "variance", "first": first, "second": second}
    pairs = [
        {"cost_parameter": k} | names | dict(zip(("ratio", "ratio_low", "ratio_high"), numbers, strict=True))
        for k, numbers in ((1.0, (9.0, 8.0, 10.0)), (-3.0, ratio))
    ]
    pairs += [pair | {"figure": "variance_x_flops", "ratio": 7.0} for pair in pairs]
    (tmp_path / "pairs.csv").write_text(tables.to_csv(pairs))
    row = readers.variance("phi", "measure_valued", over="reparam", point=-3)(tmp_path)
    assert row["obtained"] == "0.500 [0.400, 0.625] of reparam's"


@pytest.mark.parametrize(
    ("chunks", "quantile"), [(None, 1.96), (10, 2.262)]
)  # of Student's t with 9 degrees of freedom
@pytest.mark.parametrize("low_is_known", [True, False])
def test_a_slope_has_the_standard_error_that_follows_from_the_intervals(low_is_known, chunks, quantile, tmp_path):
    """The SNR is a power of K, and each of its logarithms has a standard error of 0.1. The low end may be 0."""
    powers = {"reparam": -0.5, "dreg": 0.4}
    reach = math.exp(0.1 * quantile)
    rows = [
        {"problem": "rainforth", "estimator": name, "num_samples": k, "phi_snr": k**power}
        | {"phi_snr_low": k**power / reach * low_is_known, "phi_snr_high": k**power * reach}
        for k in (1, 4, 16)
        for name, power in powers.items()
    ]
    write_laboratory(tmp_path, "phi", rows)
    config = json.loads((tmp_path / "config.json").read_text())
    config["settings"] |= {"chunks": chunks} if chunks else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    error = 0.1 / math.log(4) / math.sqrt(2)
    for name, power in powers.items():
        row = readers.slope("phi", name)(tmp_path)
        assert row["obtained"] == f"{power:.3f} ± {error:.3f}"
        assert row["K"] == "1 to 16"


def test_distances_rank_each_estimator_at_its_nearest_temperature(tmp_path):
    measured = {
        "reinmax:temperature=1.3": (0.8933, 0.0383),
        "st_gumbel_softmax:temperature=0.5": (1.021, 0.04),
        "st_gumbel_softmax:temperature=1.3": (1.7, 0.03),
        "leave_one_out": (0.03, 0.04),
    }
    rows = [
        {"problem": "mnist", "estimator": name, "num_samples": 32}
        | {"encoder_relative_bias": bias, "encoder_relative_stderr": chance}
        for name, (bias, chance) in measured.items()
    ]
    write_laboratory(tmp_path, "encoder", rows)
    row = readers.distances("encoder", ("st_gumbel_softmax", "reinmax"))(tmp_path)
    assert row["obtained"] == "reinmax 0.89 ± 0.04, st_gumbel_softmax 1.02 ± 0.04 (1 seed)"
    assert row["K"] == "32"


# Toy problems


def write_toy(folder, toy, rows, num_samples=2):
    """Writes a trained toy problem with two seeds and 500 steps."""
    settings = {"toy": toy, "steps": 500, "seeds": 2, "num_samples": num_samples}
    write_measurement(folder, settings, [{"family": "x", "first_variance": 1.0} | row for row in rows])
    (folder / "curves.csv").write_text("point,estimator,seed,step,loss,variance\nx,arm,0,0,1.0,1.0\n")


def test_a_toy_problem_gives_a_ranking_of_the_claimed_estimators_by_their_final_loss(tmp_path):
    rows = [
        {"point": f"target {target}", "estimator": name, "final_loss": loss, "final_loss_stderr": 1e-3}
        for target in (0.45, 0.499)
        for name, loss in (("reinforce", 0.25), ("arm", 0.2), ("relax", 0.24), ("rebar", 0.26))
    ]
    write_toy(tmp_path / "toys_quick/bernoulli", "bernoulli", rows)
    ranking = "relax 0.2400 ± 0.0010, reinforce 0.2500 ± 0.0010, rebar 0.2600 ± 0.0010 (2 seeds)"
    for row in published.collect(tmp_path, []):
        assert row["obtained"] == ranking
        assert row["data"] == "bernoulli toy, 500 steps"
        assert row["script"] == "reproduce_toys.sh --quick"


def test_a_standard_error_beyond_the_fifth_digit_is_not_shown(tmp_path):
    errors = {"exact": 1e-6, "arm": 1e-3}
    rows = [
        {"point": "power 2", "estimator": name, "final_loss": 0.2, "final_loss_stderr": error}
        for name, error in errors.items()
    ]
    write_toy(tmp_path, "polynomial", rows)
    row = readers.toy_ranking("power 2", "final_loss", tuple(errors))(tmp_path)
    assert row["obtained"] == "exact 0.20000, arm 0.2000 ± 0.0010 (2 seeds)"


@pytest.mark.parametrize(
    ("variance", "ranking"),
    [
        (
            0.00722,
            "unordered_set 0.005960 ± 0.000020, leave_one_out 0.007220 ± 0.000020, reinforce 0.455000 ± 0.000020",
        ),
        (math.nan, "unordered_set 0.005960 ± 0.000020, reinforce 0.455000 ± 0.000020, leave_one_out -"),
    ],
)
def test_a_toy_problem_gives_a_ranking_by_the_first_variance_with_unknown_variances_last(variance, ranking, tmp_path):
    variances = {"reinforce": 0.455, "leave_one_out": variance, "unordered_set": 0.00596}
    rows = [
        {"point": "three_bits", "estimator": name, "final_loss": 0.2, "final_loss_stderr": 1e-3}
        | {"first_variance": value, "first_variance_stderr": 2e-5}
        for name, value in variances.items()
    ]
    write_toy(tmp_path / "toys_quick/categorical", "categorical", rows, num_samples=1)
    [row] = published.collect(tmp_path, [])
    assert row["obtained"] == f"{ranking} (2 seeds)"
    assert (row["K"], row["data"]) == ("1, 2", "categorical toy")


# Provenance


@pytest.mark.parametrize(
    ("settings", "backend", "precision"),
    [
        ({}, "cpu", "float32"),
        ({"matmul_precision": "default"}, "gpu", "float32, default products"),
        ({"matmul_precision": "tensorfloat32"}, "gpu", "float32, tensorfloat32 products"),
        ({"matmul_precision": "float32"}, "gpu", "float32"),
        ({"compute_dtype": "bfloat16"}, "gpu", "bfloat16"),
    ],
)
def test_precision_and_machine_come_from_the_config(settings, backend, precision):
    config = {"settings": settings, "platform": f"{backend}, x86_64, 2 cores", "device": "8 x some kind"}
    columns = readers.provenance_columns(config, 90.0)
    assert (columns["precision"], columns["machine"], columns["minutes"]) == (
        precision,
        "8 x some kind, 2 cores",
        "1.5",
    )


def test_the_commits_of_a_continued_result_are_named_once():
    config = {"settings": {}, "platform": "cpu, x86_64, 2 cores", "device": "cpu", "git_commit": "abcdef0123"}
    later = [{"git_commit": "abcdef0123"}, {"git_commit": "0123456789+"}]
    assert readers.provenance_columns(config | {"continued": later}, 90.0)["commit"] == "abcdef0, 0123456+"
