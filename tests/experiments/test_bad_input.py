"""Bad input to every command: one sentence on stderr, a non-zero exit, no traceback, and no file is overwritten.

A case is what follows `python -m experiments.`, where {} stands for a folder of prepared files, and the words that its
sentence must contain. All cases share the imports of one process. Nothing is trained.
"""

import json
from pathlib import Path

import pytest

from tests.helpers.entry_points import SMALL, Call, run_all
from tests.helpers.wrong_files import write_data, write_workdirs

CASES = {
    # files of data
    "train --dataset=digitz": ("--dataset", "digits"),
    "train --dataset=mnist": ("--data_dir", "prepare"),
    "train --dataset=mnist --data_dir={}": ("mnist", "prepare_data.sh"),
    "train --dataset=frey_faces": ("--data_dir",),
    "train --dataset=frey_faces --data_dir={}": ("frey_faces.npz",),
    "train --dataset=../../etc/passwd --data_dir={}": ("is unknown",),
    "train --dataset=npz:": ("no such file",),
    "train --dataset=npz:/nowhere/x.npz": ("/nowhere/x.npz",),
    "train --dataset=npz:{}": ("no such file",),
    "train --dataset=npz:{}/nan.npz": ("NaN",),
    "train --dataset=npz:{}/infinite.npz": ("inf",),
    "train --dataset=npz:{}/large.npz": ("0 to 1",),
    "train --dataset=npz:{}/vector.npz": ("vector.npz", "shape"),
    "train --dataset=npz:{}/rank5.npz": ("shape",),
    "train --dataset=npz:{}/none.npz": ("non-empty",),
    "train --dataset=npz:{}/one.npz": ("one image",),
    "train --dataset=npz:{}/ints.npz": ("has counts", "uint8"),
    "train --dataset=npz:{}/complex.npz": ("complex",),
    "train --dataset=npz:{}/strings.npz": ("<U",),
    "train --dataset=npz:{}/objects.npz": ("objects.npz", "np.savez"),
    "train --dataset=npz:{}/text.npz": ("text.npz", "np.savez"),
    "train --dataset=npz:{}/cut.npz": ("cut.npz", "np.savez"),
    "train --dataset=npz:{}/pickle.npz": ("pickle.npz", "np.savez"),
    "train --dataset=npz:{}/other_names.npz": ("must hold train and test",),
    "train --dataset=npz:{}/unlike.npz": ("differ",),
    "train --dataset=npz:{}/images.npy": ("images.npy",),
    "train --validation_size=1500": ("--validation_size",),
    "train --batch_size=2000": ("--batch_size", "1500"),
    # flags
    "train --budget=evaluations": ("--budget=evaluations is neither evaluations:N nor flops:N",),
    "train --budget=evaluations:1 --estimator=disarm --objective=elbo --posterior=bernoulli": ("too small for disarm",),
    "train --budget=evaluations:8 --num_samples=2": ("leave out --num_samples",),
    "train --budget=evaluations:8 --objective=iwae": ("different bound for each K",),
    "train --columns=nll": ("--columns=nll: there is no such column",),
    "train --compare=estimator": ("--compare=estimator needs runs with several values of estimator", "no setting is"),
    "train --compare=estimatr --estimator=reparam,stl --objective=elbo": (
        "no such setting; choose one of the swept settings: estimator",
    ),
    "train --compare=learning_rate --learning_rate=0.1,0.2 --batch_size=16,32": ("--validation_size=200",),
    "train --estimator=disarm:num_samples=two --objective=elbo": ("'two' is not an integer",),
    "train --estimator=disarm:num_samples=1 --objective=elbo": ("--num_samples of at least 2, got 1",),
    "train --batch_size=0": ("batch_size", "0"),
    "train --batch_size=99999999999": ("error: --batch_size=99999999999: ", "32 bits"),
    "train --latent_dim=-1": ("latent_dim",),
    "train --latent_dim=two": ("latent_dim", "integer"),
    "train --latent_dim=": ("latent_dim", "empty"),
    "train --latent_dim=none": ("latent_dim",),
    "train --hidden=0": ("hidden",),
    "train --seed=0,,1": ("seed", "empty"),
    "train --seed=-1": ("seed",),
    f"train --seed=1{'0' * 400}": ("seed", "32 bits"),
    f"train --eval_every=1{'0' * 30}": ("eval_every", "32 bits"),
    "train --learning_rate=0": ("learning_rate", "above 0"),
    "train --learning_rate=nan": ("learning_rate", "finite"),
    "train --learning_rate=inf": ("learning_rate", "finite"),
    "train --learning_rate=fast": ("learning_rate", "number"),
    "train --objective=elbo_analytic:beta=-1": ("beta", "below 0"),
    "train --num_samples=0": ("num_samples", "below 1"),
    "train --num_samples=": ("num_samples", "empty"),
    "train --epochs=1.5": ("epochs", "integer"),
    "train --epochs=0": ("epochs", "below 1"),
    "train --eval_samples=0": ("eval_samples", "below 1"),
    "train --eval_every=-1": ("error: --eval_every=-1: ",),
    "train --eval_every=1,2": ("error: --eval_every=1,2: not an integer: '1,2'\n",),
    "train --checkpoint_every=-1": ("checkpoint_every",),
    "train --keep=1": ("error: --keep=1: 1 is not an integer >= 2\n",),
    "train --sweep_mode=both": ("sweep_mode",),
    "train --posterior=bernoulli:signed=perhaps": ("signed=perhaps", "true or false"),
    "train --prior=learnt": ("prior", "did you mean learned"),
    "train --estimator=leave_one_out:by_layer=true --num_samples=2": ("by_layer=true", "several stochastic layers"),
    "train --posterior=normal:signed=true": ("no option 'signed'", "it has no options"),
    "train --estimator=reinfroce": ("estimator", "reinforce"),
    "train --estimator=dreg": ("--estimator=dreg", "reparam"),
    "train --objective=iwae --estimator=stl": ("--estimator=stl", "dreg"),
    "train --estimator=gdreg": ("--estimator=gdreg", "needs p(z) apart from p(x|z)", "elbo, iwae"),
    "train --objective=iwae --num_samples=2 --estimator=gdreg --prior=mixture": (
        "--estimator=gdreg",
        "Mixture cannot be; choose --prior=learned or flow",
    ),
    "train --objective=elbo --posterior=normal+bernoulli --latent_dim=3+3 --estimator=gdreg+exact": (
        "gdreg+exact: gdreg needs the prior of all blocks at once",
        "choose reparam or stl",
    ),
    "train --estimator=leave_one_out": ("--num_samples",),
    "train --estimator=reparam_antithetic --num_samples=3": ("pairs: --num_samples=3 must be even",),
    "train --posterior=bernoulli --objective=elbo --estimator=arm --num_samples=3": ("arm", "got --num_samples=3"),
    "train --estimator=reparam,dreg": ("--estimator=dreg",),
    "train --posterior=bernoulli": ("--estimator=reparam", "leave_one_out"),
    "train --posterior=student_t": ("StudentT", "elbo"),
    "train --posterior=coupling": ("Flow", "elbo"),
    "train --posterior=planar --objective=elbo --estimator=reinforce": (
        "--posterior=planar",
        "given z",
        "reparam, stl",
    ),
    "train --posterior=iaf:layers=0 --objective=elbo": (
        "error: --posterior=iaf:layers=0 needs a positive number of layers",
    ),
    "train --posterior=bernoulli --latent_dim=4-2 --objective=elbo --estimator=relax": ("Markov", "leave_one_out"),
    "train --objective=renyi --num_samples=2 --estimator=wake_sleep": ("--estimator=wake_sleep", "leave_one_out"),
    "train --estimator=gumbel_rao:inner_samples=0": ("--estimator=gumbel_rao", "inner_samples"),
    "train --estimator=gumbel_rao:k=3": ("has no option", "inner_samples=10"),
    "train --objective=elbo:free_bits=2": ("no option 'free_bits'", "its options are beta=1.0, kl_warmup=0.0"),
    "train --objective=iwae:beta=2": ("no option 'beta'", "it has no options"),
    "train --objective=renyi:alpha=1": ("--objective=renyi:alpha=1", "alpha must be"),
    "train --posterior=full_covariance --objective=elbo_analytic:free_bits=1": ("free_bits", "--posterior=normal"),
    "train --binarization=none": ("--likelihood=bernoulli", "--binarization"),
    "train --likelihood=discretized_logistic": ("--binarization=none",),
    "train --no_such_flag=1": ("error: there is no flag --no_such_flag; --help lists the flags",),
    "train --estimater=stl": ("error: there is no flag --estimater; did you mean --estimator?",),
    "train --optimizer=optax:lyon": ("error: --optimizer=optax:lyon cannot be imported",),
    "train --profile_steps=3": ("--profile_steps=3", "1:100"),
    "train --profile_steps=90:99": ("--profile_steps=90:99", "1:46"),
    "train --profile_steps=0:5": ("--profile_steps", "1:46"),
    "train --slurm_cpus=2": ("--slurm_cpus", "--launcher=slurm"),
    "train --program=2": ("--program=2 does not exist; give a number from 1 to 1",),
    "train --launcher=slurm --budget=flops:1e9": ("--budget=flops:N", "--num_samples"),
    "train --launcher=slurm --multihost": ("--launcher=slurm", "--multihost"),
    # workdirs
    "train --workdir={}/file": ("{}/file is a file, not a folder",),
    "train --workdir={}/file/below": ("{}/file",),
    "train --workdir={}/run --seed=7": ("other settings (--seed=0 and not 7)",),
    "train --workdir={}/run --seed=7 --launcher=slurm": ("other settings", "seed=0"),
    "train --workdir={}/run --seed=0,1": ("single run",),
    "train --workdir={}/config": ("config.json", "does not describe a training"),
    "train --workdir={}/config_text": ("config.json", "not valid JSON"),
    "train --workdir={}/other_data": ("other data",),
    "train --workdir={}/no_json": ("runs.json", "not valid JSON"),
    "train --workdir={}/list": ("runs.json", "no named values"),
    "train --workdir={}/no_runs": ("runs.json", "does not describe runs"),
    "train --workdir={}/hostile": ("runs.json", "not an integer"),
    "train --workdir={}/newer": ("runs.json", "cannot_be_known"),
    "train --workdir={}/no_result": ("runs.json does not hold the results of finished runs",),
    "train --workdir={}/torn": ("metrics.jsonl", "line 1"),
    "train --workdir={}/other_net": ("another configuration",),
    "train --workdir={}/linked": ("metrics.jsonl is a symbolic link",),
    "train --workdir={}/linked_lock": (".lock is a symbolic link",),
    "train --workdir={}/\x1b[31m": ("cannot be printed", "\\x1b[31m"),
    "train --workdir={}/hostile_result": ("runs.json holds a value that is not a figure",),
    "train --workdir={}/named_code": ("runs.json", "'os:system' is not of the form"),
    "evaluate": ("error: --workdir is missing; give --workdir=FOLDER",),
    "evaluate --workdir=": ("--workdir is missing",),
    "evaluate --workdir={}/nowhere": ("{}/nowhere does not exist",),
    "evaluate --workdir={}/file": ("no runs.json",),
    "evaluate --workdir={}": ("no runs.json",),
    "evaluate --workdir={}/run --run=seed=3": ("--run=seed=3 matches none of the 1 runs",),
    "evaluate --workdir={}/run --run=seed": ("--run=seed", "not NAME=VALUE"),
    "evaluate --workdir={}/run --run=sed=3": ("--run=sed=3", "the settings are dataset"),
    "evaluate --workdir={}/run --run=seed=three": ("--run=seed=three", "not an integer"),
    "evaluate --workdir={}/strange_row": ("evaluations.jsonl has a row of run 1, and there are 1 runs",),
    "evaluate --workdir={}/run --checkpoint=best": ("--validation_size",),
    "evaluate --workdir={}/run --checkpoint=7": ("--checkpoint=7", "choose latest or one of 2"),
    "evaluate --workdir={}/run --checkpoint=../2": ("--checkpoint=../2",),
    "evaluate --workdir={}/run --eval_samples=0": ("eval_samples",),
    "evaluate --workdir={}/run --eval_samples=many": ("eval_samples",),
    "evaluate --workdir={}/other_data": ("other data",),
    "evaluate --workdir={}/no_json": ("runs.json", "not valid JSON"),
    "evaluate --workdir={}/list": ("runs.json", "no named values"),
    "evaluate --workdir={}/no_runs": ("runs.json", "does not describe runs"),
    "evaluate --workdir={}/hostile": ("runs.json", "not an integer"),
    "evaluate --workdir={}/newer": ("runs.json", "cannot_be_known"),
    "evaluate --workdir={}/hostile_result": ("runs.json holds a value that is not a figure",),
    "evaluate --workdir={}/no_checkpoint": ("no checkpoint",),
    "evaluate --workdir={}/other_net": ("not finished", "--checkpoint"),
    "evaluate --workdir={}/other_net --checkpoint=2": ("another configuration",),
    "evaluate --workdir={}/linked_rows": ("evaluations.jsonl is a symbolic link",),
    "evaluate --workdir={}/linked_lock": (".lock is a symbolic link",),
    # the laboratory
    "compare_estimators --problem=cubic": ("--problem=cubic", "quadratic"),
    "compare_estimators --problem=nowhere:f": ("nowhere",),
    "compare_estimators --problem=json:f": ("json",),
    "compare_estimators --problem=": ("--problem",),
    "compare_estimators --problem=json:loads": ("without arguments",),
    "compare_estimators --problem=time:time": ("--problem=time:time",),
    "compare_estimators --problem=quadratic --workdir={}/run": ("two problems",),
    "compare_estimators --workdir={}": ("no runs.json",),
    "compare_estimators --workdir={}/run --run=seed=3": ("--run=seed=3 matches none of the 1 runs",),
    "compare_estimators --run=seed=3": ("--run is about a run of --workdir",),
    "compare_estimators --split=train": ("--split is about a run of --workdir",),
    "compare_estimators --workdir={}/sweep": ("holds 2 runs; choose one by --run=NAME=VALUE", "seed is 0, 1"),
    "compare_estimators --workdir={}/sweep --run=hidden=16": ("matches 2 runs", "seed is 0, 1"),
    "compare_estimators --workdir={}/no_checkpoint": ("no checkpoint",),
    "compare_estimators --workdir={}/run --split=validation": (
        "--split=validation: the run has no validation images; choose --split=test or train",
    ),
    "compare_estimators --estimators=": ("--estimators",),
    "compare_estimators --estimators=reparm": ("--estimators=reparm: there is no estimator 'reparm'",),
    "compare_estimators --estimators=arm": ("--estimators=arm: arm", "Normal"),
    "compare_estimators --objective=elbo_analytic": ("elbo_analytic",),
    "compare_estimators --num_samples=0": ("--num_samples",),
    "compare_estimators --num_samples=": ("--num_samples",),
    "compare_estimators --num_samples=1.5": ("num_samples", "integer"),
    "compare_estimators --num_samples=1,two": ("num_samples", "integer"),
    "compare_estimators --budget=all": ("--budget=all", "evaluations:8"),
    "compare_estimators --budget=evaluations:0": ("--budget",),
    "compare_estimators --budget=evaluations:nan": ("--budget",),
    "compare_estimators --budget=flops:1e9 --num_samples=2": ("--budget",),
    "compare_estimators --problem=quadratic:cost_parameter=nan": ("cost_parameter", "number"),
    "compare_estimators --problem=quadratic:cost_parameter=": ("cost_parameter",),
    "compare_estimators --problem=coins:cost_parameter=1": ("cost_parameter",),
    "compare_estimators --batch_size=4": ("--batch_size",),
    f"compare_estimators --num_samples=1{'0' * 400}": ("num_samples", "32 bits"),
    "compare_estimators --draws=19": ("draws",),
    "compare_estimators --draws=23": ("--draws=23",),
    "compare_estimators --reference_draws=7": ("--reference_draws=7",),
    "compare_estimators --reference=truth": ("--reference", "'truth'"),
    "compare_estimators --confidence=1": ("confidence",),
    "compare_estimators --confidence=nan": ("confidence",),
    "compare_estimators --output={}/file": ("{}/file",),
    # the toys, the policy, the picture, the report
    "toy_bernoulli --toy=gaussian": ("toy",),
    "toy_bernoulli --estimators=": ("--estimators",),
    "toy_bernoulli --estimators=stl": ("stl",),
    "toy_bernoulli --estimators=arm,": ("--estimators",),
    "toy_bernoulli --steps=100 --records=4": ("--steps=100", "3"),
    "toy_bernoulli --records=1": ("records",),
    "toy_bernoulli --seeds=0": ("seeds",),
    "toy_bernoulli --draws=1": ("draws",),
    "toy_bernoulli --num_samples=0": ("num_samples",),
    "toy_bernoulli --learning_rate=0": ("learning_rate",),
    "toy_bernoulli --learning_rate=nan": ("learning_rate",),
    "toy_bernoulli --output={}/file": ("{}/file",),
    "policy_gradients --estimators=k4": ("--estimators=k4",),
    "policy_gradients --estimators=nowhere:entry": ("nowhere:entry",),
    "policy_gradients --estimators=os:getcwd": ("--estimators=os:getcwd", "Entry"),
    "policy_gradients --group=1": ("group",),
    "policy_gradients --draws=50": ("--draws=50", "20"),
    "policy_gradients --beta=nan": ("--beta",),
    "policy_gradients --beta=big": ("error: --beta=big: not a number: 'big'\n",),
    "policy_gradients --clip=0": ("--clip",),
    "policy_gradients --estimators=": ("--estimators",),
    "policy_gradients --output={}/file": ("{}/file",),
    "gradient_flow --seed=-1": ("seed",),
    "gradient_flow --seed=one": ("seed",),
    "gradient_flow --output={}/file": ("{}/file",),
    "gradient_flow --output={}/file/below": ("{}/file",),
    "report": ("--workdir",),
    "report --workdir={}/nowhere": ("{}/nowhere",),
    "report --workdir={}/run --output={}": ("--output",),
    "report --workdir={}/list": ("runs.json", "no named values"),
    "report --workdir={}/newer": ("runs.json", "cannot_be_known"),
    "report --workdir={}/strange_row": ("evaluations.jsonl has a row of run 1, and there are 1 runs",),
    "report --workdir={}/run --compare=estimator": ("--compare=estimator needs runs with several values",),
    "report --workdir={}/run --run=seed=3": ("--run=seed=3 matches none of the 1 runs",),
    "report --workdir={}/torn": ("metrics.jsonl", "line 1"),
    "report --workdir={}/hostile_result": ("runs.json holds a value that is not a figure",),
    "benchmark --sections=speed": ("--sections",),
    "benchmark --sections=": ("--sections",),
    "benchmark --batch_sizes=0": ("--batch_sizes",),
    "benchmark --batch_sizes=": ("--batch_sizes",),
    "benchmark --rounds=0": ("rounds",),
    "benchmark --draws=23": ("--draws=23",),
    "benchmark --output={}/file": ("{}/file",),
    "train --seed=0 1": ("unexpected argument '1'; write flags as --name=value, and lists without spaces",),
    "train --seed=0, 1": ("--seed=0,: an element is empty", "without spaces"),
    "train --nodata_mean=true": ("error: --nodata_mean takes no value; give --nodata_mean or --data_mean=false",),
    "train --notensorboard=1": ("--notensorboard takes no value; give --notensorboard or --tensorboard=false",),
    "train stray": ("'stray'",),
    "evaluate --workdir={}/run stray": ("'stray'",),
    "compare_estimators stray": ("'stray'",),
    "toy_bernoulli stray": ("'stray'",),
    "report stray": ("'stray'",),
    "gradient_flow stray": ("'stray'",),
    "policy_gradients stray": ("'stray'",),
    "benchmark stray": ("'stray'",),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but those that only say who works there."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of every case, and the files of the folder before and after."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file").write_text("")
    write_data(folder)
    write_workdirs(folder)
    before = contents(folder)
    calls = []
    for i, case in enumerate(CASES):
        name, *arguments = case.replace("{}", str(folder)).split(" ")
        if name == "train":
            fresh = [] if "--workdir" in case else [f"--workdir={folder}/fresh/{i}"]
            arguments = [*SMALL, "--figures=none", *fresh, *arguments]
        calls.append(Call(f"experiments.{name}", arguments))
    found = dict(zip(CASES, run_all(calls, tmp_path_factory.mktemp("outcomes")), strict=True))
    after = {name: content for name, content in contents(folder).items() if not name.startswith("fresh")}
    return folder, found, before, after


@pytest.mark.parametrize("case", CASES)
def test_is_one_sentence(outcomes, case):
    folder, found, _, _ = outcomes
    code, out, err = found[case]
    assert code == 1, (code, err)
    assert "Traceback" not in out + err, err
    assert all(word.replace("{}", str(folder)) in err for word in CASES[case]), err
    assert err.count("\n") == 1, err
    assert err.startswith("error: "), err


def test_nothing_was_written_over_trained_or_executed(outcomes):
    folder, _, before, after = outcomes
    for name in ("torn/config.json", "other_net/config.json"):  # which list the refused command as well
        config = json.loads(after[name])
        assert [one["settings"] for one in config.pop("later")] == [config["settings"]]
        after[name] = json.dumps(config, indent=2).encode() + b"\n"
    assert before == after
    assert not list((folder / "fresh").glob("*/*.jsonl"))
    assert not (folder / "executed").exists()
