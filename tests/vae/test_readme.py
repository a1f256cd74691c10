"""vae/README.md is true: its code runs, what it adds works and takes as many files and lines as it says, and every room
is on its map."""

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "vae/README.md").read_text()
BLOCK = r"```python\n(.*?)```"
END = rf"[Aa]t the end of `([^`]+)`:\n\n{BLOCK}"
NEW = rf"The new file `([^`]+)`:\n\n{BLOCK}"
BELOW = rf"In `([^`]+)`, below `([^`]+)`:\n\n{BLOCK}"
BECOMES = r"In `([^`]+)`, `([^`]+)` becomes `([^`]+)`"
SECTIONS = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.S | re.M))


def edited(sections: list[str]) -> dict[str, str]:
    """The files that these sections change or add, as they are afterwards."""
    files: dict[str, str] = {}
    current = lambda path: files.get(path) or (ROOT / path).read_text()
    for name in sections:
        text = SECTIONS[name]
        if "main README" in text:
            [source] = [
                b for b in re.findall(BLOCK, (ROOT / "README.md").read_text(), re.S) if "stateless(estimate)" in b
            ]
            files["vae/estimators/reinforce_at_mean.py"] = source
        files.update(re.findall(NEW, text, re.S))
        for path, addition in re.findall(END, text, re.S):
            files[path] = f"{current(path)}\n\n{addition}"
        for path, anchor, addition in re.findall(BELOW, text, re.S):
            assert current(path).count(f"\n{anchor}\n") == 1, anchor
            files[path] = current(path).replace(f"\n{anchor}\n", f"\n{anchor}\n{addition}")
        for path, before, after in re.findall(BECOMES, text):
            assert current(path).count(before) == 1, before
            files[path] = current(path).replace(before, after)
    return files


@pytest.mark.parametrize("section", SECTIONS)
def test_files_and_lines_are_as_many_as_it_says(section):
    files = edited([section])
    old = {path: (ROOT / path).read_text() if (ROOT / path).exists() else "" for path in files}
    lines = 0
    for path, text in files.items():
        difference = difflib.ndiff(old[path].splitlines(), text.splitlines())
        lines += sum(line.startswith("+ ") and bool(line[2:].strip()) for line in difference)
    new = sum(not text for text in old.values())
    [claim] = re.findall(rf"^\| {section} \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.M)
    assert tuple(map(int, claim)) == (new, len(files) - new, lines)


def test_every_room_is_on_the_map():
    rooms = PAGE.split("## Rooms")[1].split("\n## ")[0]
    for path in (ROOT / "vae").glob("*.py"):
        assert path.name == "__init__.py" or path.name in rooms, path.name


def test_the_code_runs():
    """All that is no addition, in order, in one namespace."""
    text = PAGE
    for section in SECTIONS.values():
        text = text.replace(section, "")
    blocks = re.findall(BLOCK, text, re.S)
    assert len(blocks) == 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "vae/README.md", "exec"), namespace)
    assert namespace["gradient"].shape == (2, 3)
    assert namespace["jacobians"]["mean"].shape == (1000, 2)
    assert 20 < namespace["nats"] < 30  # of 44 without training
    assert namespace["images"].size == 64 * 64


def test_names_of_the_tables_exist():
    from vae import distributions, estimators, models, objectives, train

    rooms = {"objectives": objectives, "train": train, "distributions": distributions, "models": models}
    cells = [line.split(" | ")[-1] for line in PAGE.split("## If you come from")[1].splitlines() if line[:1] == "|"]
    names = re.findall(r"`(\w+)`", " ".join(cells))
    assert len(names) > 10
    for name in names:
        assert name in estimators.BY_NAME or name in ("layerwise", "iwae"), name
    for room, name in re.findall(r"`(objectives|train|distributions|models)\.(\w+)", PAGE):
        assert hasattr(rooms[room], name), name
    for name in re.findall(r'BY_NAME\["(\w+)"\]', PAGE):
        assert name in estimators.BY_NAME


@pytest.mark.slow
def test_what_it_adds_trains(tmp_path):
    """All of it at once, in a copy of the tree."""
    for folder in ("vae", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in edited(list(SECTIONS)).items():
        (tmp_path / path).write_text(text)
    for flags in (
        ["--dataset=bars", "--posterior=logistic", "--objective=jackknife", "--num_samples=4"],
        ["--estimator=reinforce_at_mean", "--objective=elbo", "--architecture=residual"],
    ):
        short = ["--epochs=1", "--hidden=8", "--latent_dim=2", "--eval_samples=2", "--nofigures"]
        command = [sys.executable, "-m", "experiments.train", *flags, *short, f"--workdir={tmp_path}/{flags[0][2:5]}"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "-log p(x)" in done.stdout
