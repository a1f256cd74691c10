#!/usr/bin/env bash
# Starts a paper's project: a folder of its own with one estimator, one experiment, one script and their tests. It depends
# on this checkout and touches none of it.
#
#   bash scripts/new_project.sh NAME [DIR]        the folder is DIR, by default NAME beside this checkout
#
# NAME is a Python name in lower case, of the package and of its estimator. What is in the new folder works at once:
# its tests pass, `python -m NAME.train` trains with --estimator=NAME, `python -m NAME.evaluate` and `python -m NAME.report`
# read what it leaves, and `python -m NAME.experiment` is the laboratory.
set -euo pipefail

fail() {
  echo "new_project.sh: $1" >&2
  exit 1
}

[[ $# -eq 1 || $# -eq 2 ]] || fail "give a name and perhaps a folder: bash scripts/new_project.sh NAME [DIR]"
name=$1
code=$(cd "$(dirname "$0")/.." && pwd)
[[ $name =~ ^[a-z][a-z0-9_]*$ ]] || fail "'$name' is no Python name in lower case, such as my_estimator"
python="$code/.venv/bin/python"
[[ -x $python ]] || python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
  fail "$python is no Python 3.11 or newer, so name another by PYTHON=..."
# Folders, what the new files import by these names, and packages, of which none may be installed yet.
taken=" tests scripts results estimators hold_density jnp score_surrogate stateless stop_gradient vae experiments"
taken+=" cv2 jaxlib scipy sklearn tensorflow_datasets yaml $(sed 's/[^a-z_].*//' "$code/requirements.txt" | tr '\n' ' ')"
[[ $taken != *" $name "* && $name != test_* ]] && "$python" -I - "$name" << 'END' ||
import builtins, importlib.util, keyword, sys
name = sys.argv[1]
words = {*keyword.kwlist, *dir(builtins), *sys.stdlib_module_names}
sys.exit(name in words or importlib.util.find_spec(name) is not None)
END
  fail "'$name' is a word of Python or of the new files, or a package that it would hide, so choose another name"
! grep -q "^    \"$name\": Entry(" "$code/vae/estimators/__init__.py" ||
  fail "there is an estimator called $name already, so choose another name"
folder=${2:-$code/../$name}
[[ ! -e $folder ]] || fail "$folder is there already and is left as it is, so give another DIR"
mkdir -p "$folder" 2> /dev/null || fail "$folder cannot be made, so give another DIR"
folder=$(cd "$folder" && pwd)
back=$(realpath --relative-to="$folder" "$code")
[[ $back != *[\"\$\`\\$'\n']* ]] || {
  rmdir "$folder"
  fail "the way from $folder to this checkout holds a character that shells and TOML read as their own, so give another DIR"
}
mkdir "$folder/$name" "$folder/scripts" "$folder/tests"

# The text on stdin with @NAME@ and @CODE@ replaced, into a file of the new folder.
write() {
  local text
  text=$(cat)
  text=${text//@NAME@/$name}
  printf '%s\n' "${text//@CODE@/"$back"}" > "$folder/$1"  # quoted, or bash 5.2 reads & in it
}

write README.md << 'END'
# @NAME@

One estimator (`@NAME@/estimator.py`), one experiment (`@NAME@/experiment.py`), one script with its expected numbers
(`scripts/reproduce.sh`), and their tests. `@NAME@/train.py`, `evaluate.py` and `report.py` are those of experiments with
the estimator in their table; another of its commands finds it by a file of the same kind. The library is the checkout at
@CODE@; another is named by `VAE=...` for the script and by `pythonpath` in pyproject.toml for the tests.

    bash scripts/reproduce.sh
    "@CODE@/.venv/bin/python" -m pytest
    PYTHONPATH="@CODE@" "@CODE@/.venv/bin/python" -m @NAME@.train --estimator=@NAME@ --objective=elbo --workdir=results/digits
    PYTHONPATH="@CODE@" "@CODE@/.venv/bin/python" -m @NAME@.report --workdir=results/digits
END

write pyproject.toml << 'END'
[project]
name = "@NAME@"
version = "0.1.0"
requires-python = ">=3.11"

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = [".", "@CODE@"]
addopts = "-q --strict-markers"
filterwarnings = ["error"]
END

printf '__pycache__/\n.pytest_cache/\n/results/\n' > "$folder/.gitignore"

write "$name/__init__.py" << 'END'
"""@NAME@. To import it puts its estimator into the library's table."""

from @NAME@.estimator import @NAME@
from vae import estimators

estimators.add(
    "@NAME@", estimators.Entry(@NAME@, ("Normal", "Bernoulli"), ("elbo", "iwae"), False, 1, False, "You (2027), arXiv:....")
)
END

write "$name/estimator.py" << 'END'
"""The score function with f at the mean of q as control: one more evaluation, nothing to learn. Replace it by yours."""

import jax.numpy as jnp
from jax.lax import stop_gradient
from vae.estimators.base import Estimator, hold_density, stateless
from vae.estimators.score_function import score_surrogate


def @NAME@(num_samples: int = 1) -> Estimator:
    def estimate(key, q, f, reduce):
        held = hold_density(f, reduce)  # f less a derivative of mean zero, as in the others
        z = q.sample(key, num_samples)  # [K, *batch, D]
        values = held(z, q)  # [K, *batch]
        control = jnp.broadcast_to(held(stop_gradient(q.mean)[None], q), values.shape)
        return score_surrogate(q, z, values, control, reduce)

    return stateless(estimate)
END

write "$name/experiment.py" << 'END'
"""The estimator in the laboratory, against those that it should be better than.

    python -m @NAME@.experiment --problem=linear_gaussian --estimators=@NAME@,reinforce,reparam

Every flag of experiments.compare_estimators; `python -m @NAME@.report --workdir=...` shows what it writes.
"""

import @NAME@  # noqa: F401  (its estimator goes into the table)
from absl import flags
from experiments import cli, compare_estimators

if __name__ == "__main__":
    compare_estimators.define_flags(flags.FLAGS)
    cli.run(compare_estimators.main, resumes=True, hungry=compare_estimators.HUNGRY)
END

write "$name/train.py" << 'END'
"""A VAE trained with the estimator, by every flag of experiments.train.

    python -m @NAME@.train --estimator=@NAME@ --objective=elbo
"""

import @NAME@  # noqa: F401  (its estimator goes into the table)
from experiments import cli, train

if __name__ == "__main__":
    cli.run(train.main, resumes=True, hungry=train.HUNGRY)
END

write "$name/evaluate.py" << 'END'
"""Runs of the estimator evaluated again, by every flag of experiments.evaluate.

    python -m @NAME@.evaluate --workdir=results/digits --eval_samples=5000
"""

import @NAME@  # noqa: F401  (its estimator goes into the table)
from experiments import cli, evaluate

if __name__ == "__main__":
    cli.run(evaluate.main)
END

write "$name/report.py" << 'END'
"""Runs of the estimator on one page, by every flag of experiments.report.

    python -m @NAME@.report --workdir=results/digits
"""

import @NAME@  # noqa: F401  (its estimator goes into the table)
from absl import flags
from experiments import cli, report

if __name__ == "__main__":
    report.define_flags(flags.FLAGS)
    cli.run(report.main)
END

write scripts/reproduce.sh << 'END'
#!/usr/bin/env bash
# The gradient of a linear-Gaussian VAE, whose truth is known, by @NAME@ and by what it should be better than.
#
#   bash scripts/reproduce.sh            10000 gradients each; a minute on two CPU cores
#   bash scripts/reproduce.sh --quick    200 gradients each: TRUNCATED, half a minute
#
# Expected: no bias, and for the encoder about a twelfth of the plain score function's variance.
set -euo pipefail
quick=
for word; do
  case $word in
    --quick) quick=yes ;;
    *)
      echo "usage: bash scripts/reproduce.sh [--quick]" >&2
      exit 2
      ;;
  esac
done
cd "$(dirname "$0")/.."
code="@CODE@"
code="${VAE:-$code}"
bash "$code/scripts/setup.sh"
output=results/linear_gaussian draws=10000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 200 gradients in place of 10000"
  output=results/linear_gaussian_quick draws=200
fi
export PYTHONPATH=".:$code"
"$code/.venv/bin/python" -m @NAME@.experiment --problem=linear_gaussian --estimators=@NAME@,reinforce,reparam \
  --draws="$draws" --output="$output"
"$code/.venv/bin/python" -m @NAME@.report --workdir="$output"
END

write tests/test_estimator.py << 'END'
"""@NAME@ against the exact gradient, sized by its standard error, with a control that must fail."""

import jax
import jax.numpy as jnp
import @NAME@  # noqa: F401
import numpy as np
import pytest
from vae import distributions, estimators

DRAWS = 2**16
PARAMETERS = {
    "Normal": {"mean": jnp.array([0.4, -0.3]), "log_var": jnp.array([-0.5, 0.2])},
    "Bernoulli": {"logits": jnp.array([0.4, -0.7, 0.1])},
}


def gradient(name, family, parameters, key, num_samples, shift=0.0):
    """The gradient of E f, where f depends on q as the ELBO does; `shift` is a bug."""
    make = getattr(distributions, family)
    estimator = estimators.BY_NAME[name].make(num_samples=num_samples)

    def value(parameters):
        f = lambda z, q: jnp.sum(jnp.sin(z + 0.3) * z, axis=-1) - q.log_prob(z)
        return estimator.estimate({}, {}, key, make(**parameters), f).value + shift * jnp.sum(jax.tree.leaves(parameters)[0])

    return jax.grad(value)(parameters)


def worst(family, shift=0.0):
    """The largest deviation of the mean gradient from the exact one in standard errors."""
    parameters = PARAMETERS[family]
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draw = jax.jit(jax.vmap(lambda key: gradient("@NAME@", family, parameters, key, 2, shift)))
    exact = gradient("exact", family, parameters, keys[0], 1)
    deviations = []
    for found, truth in zip(jax.tree.leaves(draw(keys)), jax.tree.leaves(exact), strict=True):
        error = np.std(found, axis=0) / np.sqrt(DRAWS)
        assert np.linalg.norm(error) < 0.05 * np.linalg.norm(truth)
        deviations.append(np.max(np.abs(np.mean(found, axis=0) - truth) / error))
    return max(deviations)


@pytest.mark.parametrize("family", PARAMETERS)
def test_it_is_unbiased(family):
    assert worst(family) < 4.5
    assert worst(family, shift=0.2) > 4.5
END

write tests/test_experiment.py << 'END'
"""The experiment's rows, in process, and a short training by its command."""

import csv
import os
import subprocess
import sys

import @NAME@  # noqa: F401
from absl import flags
from experiments import compare_estimators


def test_the_laboratory_knows_it(tmp_path):
    values = flags.FlagValues()
    compare_estimators.define_flags(values)
    arguments = ["--problem=quadratic", "--estimators=@NAME@,reinforce", "--draws=2000", "--rounds=3"]
    values(["@NAME@", *arguments, f"--output={tmp_path}"])
    compare_estimators.main(values)
    with open(tmp_path / "results.csv") as file:
        rows = {row["estimator"]: row for row in csv.DictReader(file)}
    assert rows["@NAME@"]["phi_biased"] == "False"
    assert float(rows["@NAME@"]["phi_variance"]) < float(rows["reinforce"]["phi_variance"])


def test_training_knows_it(tmp_path):
    small = ["--epochs=1", "--hidden=8", "--eval_samples=2", "--nofigures", f"--workdir={tmp_path}"]
    command = [sys.executable, "-m", "@NAME@.train", "--estimator=@NAME@", "--objective=elbo", *small]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "-log p(x)" in done.stdout
    assert f"python -m @NAME@.report --workdir={tmp_path}" in done.stdout
END

write tests/test_reproduce.py << 'END'
"""The script's words, and that what it runs is there; its Python says what it is asked for, and does nothing."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path):
    for name in ("scripts/setup.sh", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('#!/usr/bin/env bash\necho "$@"\n')
        (tmp_path / name).chmod(0o755)

    def run(*words):
        command = ["bash", str(FOLDER / "scripts/reproduce.sh"), *words]
        environment = os.environ | {"VAE": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_an_unknown_word_is_refused_before_anything_is_done(run):
    done = run("--quik")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize("words", [(), ("--quick",)])
def test_what_it_runs_is_there(words, run):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    commands = [line.split() for line in done.stdout.splitlines() if line.startswith("-m ")]
    assert [command[1] for command in commands] == ["@NAME@.experiment", "@NAME@.report"]
    assert all(importlib.util.find_spec(command[1]) for command in commands)
    assert ("TRUNCATED" in done.stdout) == ("--draws=200" in commands[0]) == bool(words)
END

echo "$folder: bash scripts/reproduce.sh; \"$back/.venv/bin/python\" -m pytest"
