"""What `python -m experiments.train` cannot do: one sentence, and no work.

A file of its own, so that another worker has it than the one that has test_train_command.py.
"""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.entry_points import train


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Every refusal, with what its sentence must hold."""
    folder = tmp_path_factory.mktemp("bad")
    digits = load_digits().images.astype(np.float32) / 16
    spoiled = digits.copy()
    spoiled[3, 2, 1] = np.nan
    np.savez(folder / "nan.npz", images=spoiled)
    np.savez(folder / "large.npz", images=digits * 3)
    np.savez(folder / "flat.npz", images=np.zeros(10, np.uint8))
    np.savez(folder / "ints.npz", images=np.zeros((10, 4, 4), np.int64))
    np.savez(folder / "objects.npz", images=np.array([[None, 1]], dtype=object))
    (folder / "text.npz").write_text("no archive")
    (folder / "file").write_text("")
    (folder / "other").mkdir()
    config = {"settings": {"dataset": "digits"}, "data": {"checksum": ""}}
    (folder / "other/config.json").write_text(json.dumps(config))
    cases = {
        "--dataset=digitz": ("--dataset", "digits"),
        "--dataset=mnist": ("--data_dir", "prepare"),
        f"--dataset=mnist --data_dir={folder}": ("mnist", "prepare_data.sh"),
        "--dataset=npz:/nowhere/x.npz": ("/nowhere/x.npz",),
        f"--dataset=npz:{folder}/nan.npz": ("NaN",),
        f"--dataset=npz:{folder}/large.npz": ("0 to 1",),
        f"--dataset=npz:{folder}/flat.npz": ("flat.npz",),
        f"--dataset=npz:{folder}/ints.npz": ("int64",),
        f"--dataset=npz:{folder}/objects.npz": ("objects.npz",),
        f"--dataset=npz:{folder}/text.npz": ("text.npz",),
        "--batch_size=2000": ("--batch_size", "1500"),
        "--batch_size=0": ("batch_size", "0"),
        "--latent_dim=-1": ("latent_dim",),
        "--latent_dim=two": ("latent_dim", "integer"),
        "--latent_dim=": ("latent_dim", "empty"),
        "--seed=0,,1": ("seed", "empty"),
        "--learning_rate=0": ("learning_rate", "above 0"),
        "--learning_rate=nan": ("learning_rate", "finite"),
        "--learning_rate=fast": ("learning_rate", "number"),
        "--beta=-1": ("beta", "below 0"),
        "--num_samples=0": ("num_samples", "below 1"),
        "--epochs=1.5": ("epochs", "integer"),
        "--validation_size=1500": ("--validation_size",),
        "--estimator=reinfroce": ("estimator", "reinforce"),
        "--estimator=dreg": ("--estimator=dreg", "reparam"),
        "--objective=iwae --estimator=stl": ("--estimator=stl", "dreg"),
        "--estimator=leave_one_out": ("--num_samples",),
        "--estimator=reparam_antithetic --num_samples=3": ("even",),
        "--posterior=bernoulli": ("--estimator=reparam", "leave_one_out"),
        "--posterior=student_t": ("StudentT", "elbo"),
        "--objective=elbo --beta=2": ("--beta", "elbo_analytic"),
        "--posterior=full_covariance --free_bits=1": ("free bits",),
        "--binarization=none": ("--likelihood=bernoulli", "--binarization"),
        "--likelihood=discretized_logistic": ("--binarization=none",),
        f"--workdir={folder}/file": (str(folder / "file"),),
        f"--workdir={folder}/file/below": (str(folder / "file"),),
        f"--workdir={folder}/other": ("other settings",),
        "--profile_steps=5": ("--profile_steps", "1:100"),
        "--profile_steps=0:5": ("--profile_steps", "1:46"),
        "--profile_steps=40:47": ("--profile_steps", "1:46"),
        "--slurm_cpus=2": ("--slurm_cpus", "--launcher=slurm"),
        "--program=2": ("--program=2", "1"),
        "--no_such_flag=1": ("no_such_flag",),
        "epochs=3": ("epochs=3",),
    }
    argvs = [[f"--workdir={folder}/fresh/{i}", *case.split()] for i, case in enumerate(cases)]
    return folder, cases, train(folder / "outcomes", *argvs)


def test_bad_input_is_one_sentence_and_no_work(bad):
    folder, cases, outcomes = bad
    for (case, words), (code, out, err) in zip(cases.items(), outcomes, strict=True):
        assert code != 0, case
        assert "Traceback" not in out + err, (case, err)
        assert all(word in err for word in words), (case, err)
        if not case.startswith("epochs"):  # absl prints the usage below its own sentence
            assert len(err.strip().splitlines()) == 1, (case, err)
    assert not list(folder.glob("fresh/*/metrics.jsonl"))
