"""What comes from others is data: no file of theirs runs code, writes outside of its folder, or speaks as markup.

Beside these: objects and damage in .npz (test_datasets.py), whole commands on hostile workdirs (test_bad_input.py),
markup in the report (tests/experiments/report/test_page.py), and that nothing listens (test_interruptions.py).
"""

import ast
import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments.common import cli, foreign_files, settings, tables, workdirs
from experiments.common.run_folder import RunFolder, run_folders
from experiments.common.settings import Settings
from experiments.report import __main__ as report
from experiments.report import charts as report_charts
from experiments.report import page as report_page
from experiments.train import __main__ as train
from experiments.train import multihost
from experiments.train.slurm_job import Command
from tests.helpers.data_sets import some_images, write_tfds
from tests.helpers.written_workdirs import write_run
from vae import checkpoint
from vae import data as datasets
from vae.devices import host_memory

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "vae").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
MARKUP = "<script>alert(1)</script>"


# --- no code from a file


def _names(tree: ast.AST) -> set[str]:
    """Modules that are imported, and functions that are called, as they are written."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} | {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg}
    return found


FORBIDDEN = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "ctypes.util",
}
FORBIDDEN |= {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy", "shell=True"}
FORBIDDEN |= {"allow_pickle=True", "socket", "http", "urllib", "jax.profiler.start_server"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_neither_unpickles_nor_evaluates_nor_listens(path):
    tree = ast.parse(path.read_text())
    assert not _names(tree) & FORBIDDEN - ({"urllib"} if path.name == "checkpoint.py" else set())  # quotes a path
    # Only the command line sets --import=PACKAGE and --problem=MODULE:FUNCTION.
    if path.name not in ("cli.py", "user_problem.py"):
        assert not {"importlib.import_module", "importlib"} & {n for n in _names(tree) if n.endswith("import_module")}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) == "np.load":
            assert "allow_pickle=False" in ast.unparse(call)


def test_the_scan_sees_what_it_looks_for():
    """The control."""
    for line in ("import pickle", "from dill import loads", "eval('1')", "subprocess.run('x', shell=True)"):
        assert _names(ast.parse(line)) & FORBIDDEN


def test_a_job_is_words():
    """submitit pickles what it submits: an object of this one class, which holds a command line and folders' names."""
    words, folders = ["python", "-m", "experiments.train"], ["run/checkpoints"]
    assert vars(Command(words, folders)) == {"words": words, "folders": folders}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module that could be imported, and is not: after the test it must not have been."""
    (tmp_path / "hostile_module.py").write_text("class Handler:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "hostile_module"
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("name", [name for name, field in settings.FIELDS.items() if field.type is str])
def test_a_configuration_names_no_code(name, hostile):
    """Also not those settings that are looked up in a table of some module."""
    for value in (f"{hostile}:Handler", "os:system", "vae.models:POSTERIORS", "__class__"):
        if name == "dataset":
            with pytest.raises((ValueError, OSError)):
                datasets.load(settings.from_json({name: value}).dataset)
        else:
            with pytest.raises(ValueError, match="not one of|choose one of|not of the form"):
                settings.from_json({name: value})


def test_a_checkpoint_names_no_code(hostile, tmp_path):
    state = {"w": jnp.arange(4.0)}
    with checkpoint.writer(tmp_path / "good") as (save, _):
        save(1, state)
    written = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*META*")]
    assert any("item_handlers" in (tmp_path / "good" / path).read_text() for path in written)
    for path in written:
        copy = shutil.copytree(tmp_path / "good", tmp_path / "copy")
        content = json.loads((copy / path).read_text())
        (copy / path).write_text(json.dumps(_replaced(content, f"{hostile}.Handler")))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = checkpoint.restore(copy, state)
        assert (found is None) == ["cannot be read" in str(warning.message) for warning in told].count(True), told
        if found:
            np.testing.assert_array_equal(found[1]["w"], state["w"])
        shutil.rmtree(copy)


def _replaced(content, text: str):
    if isinstance(content, dict):
        return {key: _replaced(value, text) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(value, text) for value in content]
    return text if isinstance(content, str) else content


@pytest.mark.parametrize("inside", [False, True])
def test_a_prepared_data_set_names_no_code(inside, hostile, tmp_path):
    """TFDS itself imports the modules that features.json names."""
    folder = tmp_path / "data/tiny/1.0.0"
    write_tfds(folder, {"train": some_images(4), "test": some_images(2)})
    features = json.loads((folder / "features.json").read_text())
    images = features["featuresDict"]["features"]
    if inside:  # JSON inside of JSON
        content = {"image": {"type": f"{hostile}.Handler", "content": {}}}
        features = {"pythonClassName": features["pythonClassName"], "jsonFeature": {"json": json.dumps(content)}}
    else:
        images["image"]["pythonClassName"] = f"{hostile}.Handler"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(OSError, match="does not belong to TFDS, 'hostile_module.Handler'"):
        datasets.load("tiny", tmp_path / "data")


@pytest.mark.parametrize(
    ("host", "bound"), [("localhost", "127.0.0.1:99"), ("127.0.0.1", "127.0.0.1:99"), ("there", None)]
)
def test_processes_of_one_machine_meet_on_it_alone(host, bound, monkeypatch):
    """Only --multihost listens, and then where the user says that the others are."""
    address = {"JAX_COORDINATOR_ADDRESS": f"{host}:99", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    for name, value in address.items():
        monkeypatch.setenv(name, value)
    assert multihost.addresses().get("coordinator_bind_address") == bound


# --- nothing outside of the folder


@pytest.mark.parametrize("member", ["../../escaped.npy", "/tmp/escaped.npy", "images.npy/../../escaped.npy"])
def test_an_archive_is_not_unpacked(member, tmp_path):
    path = tmp_path / "a/b/data.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, images=np.zeros((4, 2, 2), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "escaped")
    assert len(datasets.load(f"npz:{path}").train) == 3
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["data.npz"]
    assert not Path("/tmp/escaped.npy").exists()


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((4000, 50, 50), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(host_memory, "free", lambda: 1e6)
    with pytest.raises(ValueError, match="its arrays take 0.0 GB, and 0.0 GB of memory are free"):
        datasets.load(f"npz:{tmp_path / 'bomb.npz'}")


@pytest.mark.parametrize("dataset", ["npz:/../../x.npz", "../..", "/etc/passwd", "npz:..", "a\0b", "npz:" + "x" * 300])
def test_names_of_folders_are_made_of_plain_parts(dataset):
    runs = [Settings(dataset=dataset, seed=seed) for seed in (0, 1)]
    for some in (runs[:1], runs):
        parts = train.default_workdir(some).parts
        assert parts[0] == "results"
        assert len(parts) == 2
        assert parts[1] not in (".", "..")
        assert "\0" not in parts[1]
    for folder in run_folders("here", runs, ["dataset", "seed"]):
        assert folder.path.parent == Path("here/runs")
        assert folder.path.name not in (".", "..")
        assert "\0" not in folder.path.name


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "figures", "figures/x.png", "checkpoints/3", "runs/a"])
def test_links_in_a_workdir_are_refused(name, tmp_path):
    (tmp_path / "precious").write_text("mine")
    link = tmp_path / "workdir" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        foreign_files.refuse_links(tmp_path / "workdir")


def test_a_report_shows_nothing_that_a_link_leads_to(tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "workdir").mkdir()
    (tmp_path / "workdir/figures").symlink_to(tmp_path / "precious")
    options = flags.FlagValues()
    report.define_flags(options)
    options(["report", f"--workdir={tmp_path / 'workdir'}"])
    with pytest.raises(SystemExit):
        report.main(options)
    assert "figures is a symbolic link" in capsys.readouterr().err


def test_a_workdir_may_be_a_link_and_hold_others_that_are_not_ours(tmp_path):
    (tmp_path / "there/runs/a/checkpoints/1").mkdir(parents=True)
    (tmp_path / "there/data").symlink_to(tmp_path)
    (tmp_path / "workdir").symlink_to(tmp_path / "there")
    foreign_files.refuse_links(tmp_path / "workdir")
    foreign_files.refuse_links(tmp_path / "nowhere")


def test_folders_that_are_no_checkpoints_are_left(tmp_path):
    for name in ("7", "08", "²", "9" * 20, "-1", "x"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [7]
    checkpoint.drop_after(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 5


# --- text is not markup, not a formula, not a command


@pytest.fixture
def no_plotly(monkeypatch):
    from plotly import offline

    monkeypatch.setattr(offline, "get_plotlyjs", lambda: "")


def _leaves(content, path=()):
    """(path, container, key) of every value in nested JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield (*path, key), content, key
        yield from _leaves(value, (*path, key))


HOSTILE = (MARKUP, "=cmd()", None, True, [], {MARKUP: 1}, -1, 10**400, float("nan"), float("inf"))


def _shown_or_refused(folder: Path, what) -> bool:
    try:
        page = report_page.make_page(workdirs.read([folder]), "title")
        table = tables.to_csv([run.row for run in workdirs.read([folder]).runs])
    except ValueError:
        return False
    [charts] = re.findall('<script type="application/json" id="charts">(.*?)</script>', page)
    drawn = json.dumps(json.loads(charts))  # in which "<" is itself again
    assert MARKUP not in page + drawn, what
    assert not any(cell.startswith("=") for line in csv.reader(table.splitlines()) for cell in line), what
    return True


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "timing.jsonl"])
def test_whatever_a_run_holds_is_shown_as_text_or_refused(name, tmp_path, no_plotly):
    """Each value of each file in turn is one that does not belong there, or its name is, or it is gone."""
    write_run(tmp_path, Settings())
    path, outcomes = tmp_path / name, set()
    good = path.read_text()
    first, *rest = [good] if name.endswith(".json") else good.splitlines(keepends=True)
    for where, *_ in _leaves(json.loads(first)):
        for value in (*HOSTILE, "name", "gone"):
            content = json.loads(first)
            [(container, key)] = [(c, k) for at, c, k in _leaves(content) if at == where]
            if value == "gone":
                del container[key]
            elif value == "name":
                container[MARKUP] = container.pop(key)
            else:
                container[key] = value
            path.write_text("".join([json.dumps(content) + "\n" * (rest != []), *rest]))
            outcomes.add(_shown_or_refused(tmp_path, (where, value)))
    assert outcomes == {True, False}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"epoch": ' * 100_000, "\0" * 100, "1\n", "[]\n", "\xff\n"])
@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl"])
def test_whatever_a_file_is_it_is_read_or_refused(name, text, tmp_path):
    write_run(tmp_path, Settings())
    folder, path = RunFolder(tmp_path), tmp_path / name
    unended = name == "metrics.jsonl" and not text.endswith("\n")  # what a kill may leave
    path.write_bytes((path.read_bytes() if unended else b"") + text.encode("latin-1"))
    if unended:
        assert len(folder.rows()) == 3
        return
    with pytest.raises(ValueError, match=name):
        (folder.config(), folder.result(), folder.rows())


def write_laboratory(folder: Path, command: str = "python", **changed) -> None:
    row = {"problem": "p", "estimator": "e", "num_samples": 1, "declared_biased": False, "truth": "t"}
    row |= {"flops": 1, "seconds": 1, "phi_verdict": "best"}
    row |= {f"phi_{figure}": 0.5 for figure in foreign_files.LABORATORY}
    config = {"command": command, "versions": {}}
    config |= {"settings": {"draws": 10, "confidence": 0.95, "objective": MARKUP}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.csv").write_text(tables.to_csv([row, row | changed]))


def test_whatever_the_laboratory_left_is_shown_as_text_or_refused(tmp_path, no_plotly):
    write_laboratory(tmp_path / "good")
    assert _shown_or_refused(tmp_path / "good", "good")
    columns = (tmp_path / "good/results.csv").read_text().splitlines()[0].split(",")
    for column in columns:
        for value in (MARKUP, "", -1, "1e999", "9" * 5000, True):
            write_laboratory(tmp_path / "changed", **{column: value})
            _shown_or_refused(tmp_path / "changed", (column, value))
            shutil.rmtree(tmp_path / "changed")
        write_laboratory(tmp_path / "renamed")
        path = tmp_path / "renamed/results.csv"
        path.write_text(path.read_text().replace(column, MARKUP, 1))
        _shown_or_refused(tmp_path / "renamed", column)
        path.write_text(path.read_text() + ",,,\n" * 2 + "," * 99)
        assert not _shown_or_refused(tmp_path / "renamed", "long lines")
        shutil.rmtree(tmp_path / "renamed")


@pytest.mark.parametrize("place", ["phi", "point"])
def test_a_columns_name_is_words(place, tmp_path, no_plotly):
    """It stands on an axis, where plotly reads tags: refused, and were it not, plain."""
    link = '<a href="https://evil.example/">open</a>'
    write_laboratory(tmp_path / "a")
    path = tmp_path / "a/results.csv"
    head, *lines = path.read_text().splitlines()
    lines = [line.replace("p,", f"p,{number},", 1) for number, line in enumerate(lines)]
    head = head.replace("problem,", "problem,point,", 1)
    path.write_text("\n".join([head, *lines]))
    assert _shown_or_refused(tmp_path / "a", "good")
    path.write_text("\n".join([head.replace(place, link.replace('"', "")), *lines]))
    assert not _shown_or_refused(tmp_path / "a", place)
    path.write_text("\n".join([head.replace(place, "two words-1.5"), *lines]))
    [laboratory] = workdirs.read([tmp_path / "a"]).laboratories
    rows = [{name.replace("two words-1.5", link): cell for name, cell in row.items()} for row in laboratory.rows]
    forged, group = laboratory._replace(rows=rows), link if place == "phi" else "phi"
    charts = [
        report_charts.variance_against_cost(rows, group),
        report_charts.bias(rows, group),
        report_charts.against(forged, group, "num_samples", "snr"),
        report_charts.against(forged, group, forged.point, "variance"),
    ]
    assert all(charts)
    assert "<a" not in json.dumps(charts)
    assert "&lt;a href" in json.dumps(charts)


def test_whatever_a_toy_left_is_shown_as_text_or_refused(tmp_path, no_plotly):
    good = tmp_path / "good"
    good.mkdir()
    head = {"settings": {"toy": MARKUP, "steps": 10, "seeds": 1, "num_samples": 2}, "command": "python", "versions": {}}
    row = {"point": "p", "estimator": "e", "family": "f", "final_loss": 1, "final_loss_stderr": "", "first_variance": 1}
    curve = {"point": "p", "estimator": "e", "seed": 0, "step": 0, "loss": 1.0, "variance": 1.0}
    tables_of = {"results.csv": row, "curves.csv": curve}
    for name, line in tables_of.items():
        (good / name).write_text(tables.to_csv([line]))
    (good / "config.json").write_text(json.dumps(head))
    assert _shown_or_refused(good, "good")
    for where, *_ in _leaves(head):
        for value in HOSTILE:
            changed = json.loads(json.dumps(head))
            [(container, key)] = [(c, k) for at, c, k in _leaves(changed) if at == where]
            container[key] = value
            (good / "config.json").write_text(json.dumps(changed))
            _shown_or_refused(good, (where, value))
    (good / "config.json").write_text(json.dumps(head))
    for name, line in tables_of.items():
        for column in line:
            for value in (MARKUP, "", -1, "1e999", "9" * 5000, True):
                (good / name).write_text(tables.to_csv([line | {column: value}]))
                _shown_or_refused(good, (name, column, value))
        (good / name).write_text(tables.to_csv([line]))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python -m x; rm -rf ~ $(touch x) 'y z'", "python -m 'x;' rm -rf '~' '$(touch' 'x)' 'y z'"),
        ("it's; rm", "'it'\"'\"'s; rm'"),
    ],
)
def test_a_command_on_a_page_is_words(command, shown, tmp_path, no_plotly):
    write_laboratory(tmp_path / "a", command)
    page = report_page.make_page(workdirs.read([tmp_path / "a"]), "title")
    assert shown in html.unescape(re.sub("</?span>", "", page))


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "\t=1", "+cmd|' /C calc'!A0", "-2+3+cmd|'x'!A0", "-(1)"])
def test_a_table_holds_no_formula(text):
    [_, line] = csv.reader(tables.to_csv([{"x": text}]).splitlines())
    assert line == [f"'{text}"]


@pytest.mark.parametrize("text", ["-1.5", "+0.46", "+0.5 for large K, arXiv:1810.04152", "a = b", "-"])
def test_a_table_holds_numbers_as_they_are(text):
    [_, line] = csv.reader(tables.to_csv([{"x": text}]).splitlines())
    assert line == [text]
    assert tables.to_csv([{"x": -1.5}]) == "x\n-1.5\n"


def test_a_cell_is_one_cell():
    assert (
        tables.to_markdown([["name"], ["a|b"]]).count("|") == 7
    )  # three lines' ends, and the one behind its backslash


def test_a_sentence_commands_no_terminal(capsys):
    with pytest.raises(SystemExit):
        cli.stop("holds \x1b]0;title\x07 and \x9b31m, ünd \udcff")
    assert capsys.readouterr().err == "error: holds \\x1b]0;title\\x07 and \\x9b31m, ünd \\udcff\n"
    with pytest.raises(ValueError, match="cannot be printed"):
        settings.from_json({"dataset": "npz:\x1b[2J"})


# --- shells


@pytest.mark.parametrize(("place", "code"), [("a & b's [c]; d", 0), ("$(touch escaped)", 1), ("`touch escaped`", 1)])
def test_a_new_project_quotes_where_it_is(place, code, tmp_path):
    """The checkout's own folder goes into the new project's script and configuration."""
    checkout = tmp_path / place / "checkout"
    (checkout / "vae/estimators").mkdir(parents=True)
    (checkout / "scripts").mkdir()
    (checkout / "requirements.txt").touch()
    shutil.copytree(ROOT / "scripts/template", checkout / "scripts/template")
    script = shutil.copy(ROOT / "scripts/new_project.sh", checkout / "scripts")
    command, environment = ["bash", script, "mine", "new one"], os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "new one").exists() == (code == 0)
    if code == 0:
        reproduce = (tmp_path / "new one/scripts/reproduce.sh").read_text()
        lines = "\n".join(line for line in reproduce.splitlines() if line.startswith("default="))
        shown = subprocess.run(
            ["bash", "-c", f'{lines}\nprintf %s "$default"'], capture_output=True, text=True, check=True
        )
        assert shown.stdout == f"../{place}/checkout"
    assert not list(tmp_path.rglob("escaped"))


def test_flags_alone_name_code(hostile, tmp_path):
    """Modules are imported by name in two places, --problem and --import, which only the command line sets."""
    from experiments.compare_estimators import __main__ as compare_estimators

    values = flags.FlagValues()
    compare_estimators.define_flags(values)
    values(["", "--problem=quadratic"])
    assert values["problem"].default is None
    assert [name for name in values if "module:" in values[name].help] == ["problem"]
