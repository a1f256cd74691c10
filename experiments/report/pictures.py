"""The section with the pictures of runs: reconstructions and samples of different runs side by side."""

from html import escape

from experiments.common import cli
from experiments.common.workdirs import Contents, Run
from experiments.report.elements import listed, picture

# The kinds of pictures in the order of the page, with their headings.
HEADINGS = {
    "reconstructions": "Test images above, reconstructions below",
    "prior_samples": "Samples of the prior",
    "interpolations": "From one test image to another",
    "latent_plane": "Latent plane",
}
# The largest number of runs that are shown.
MOST_RUNS = 12
# Runs that share these settings are drawn with the same test images and the same noise.
SHARED = ("dataset", "binarization", "validation_size", "posterior", "latent_dim")


def pictures(contents: Contents, space: int) -> str:
    """The pictures of one run of each setting, the best settings first, while they fit into `space` bytes.

    If all runs have the same setting, the pictures of all seeds are shown. A setting without pictures is left out: a
    sweep draws few settings of a program.
    """
    shown: dict[str, tuple[Run, dict[str, bytes]]] = {}
    left_out = []
    for label, run in _chosen(contents).items():
        paths = {name: run.figures / f"{name}.png" for name in HEADINGS}
        images = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        size = sum(map(len, images.values())) * 4 // 3 + 500 * len(images)
        if size > space:
            left_out.append(str(run.figures))
        elif images:
            space -= size
            shown[label] = run, images
    parts = [_same_noise([run for run, _ in shown.values()])] if len(shown) > 1 else []
    for name, heading in HEADINGS.items():
        figures = [picture(images[name], label) for label, (_, images) in shown.items() if name in images]
        if figures:
            parts.append(f"<h3>{heading}</h3><div class='pictures {name}'>{''.join(figures)}</div>")
    if left_out:
        parts.append(f"<p>Not shown, to keep the file small: {escape(listed(left_out))}</p>")
    if missing := [run for run in contents.runs if not run.figures.exists()]:
        others = " of the other runs" if shown else ""
        parts.append(f"<p>There are no pictures{others}.{_how_to_draw(missing)}</p>")
    return "".join(parts)


def _how_to_draw(runs: list[Run]) -> str:
    """The command that draws the pictures of the first finished run and of its program; empty if none is finished."""
    folders = [run.folder.path for run in runs if run.row.get("status") == "done"]
    if not folders:
        return ""
    command = cli.command("evaluate", f"--workdir={folders[0]}", "--figures")
    return f" <code>{escape(command)}</code> draws those of the runs in this folder; --run chooses some of them."


def _chosen(contents: Contents) -> dict[str, Run]:
    """The runs whose pictures are shown, by their captions."""
    groups = {
        label: sorted((run for run in runs if run.figures.exists()), key=lambda run: run.row["seed"])
        for label, runs in contents.runs_by_label().items()
    }
    groups = {label: runs for label, runs in groups.items() if runs}
    runs = [(label, run) for label, group in groups.items() for run in (group if len(groups) == 1 else group[:1])]
    return {f"{label}, seed {run.row['seed']}": run for label, run in runs[:MOST_RUNS]}


def _same_noise(runs: list[Run]) -> str:
    """A sentence about what the pictures of the runs have in common, where it is true."""
    if len({tuple(run.row[name] for name in SHARED) for run in runs}) > 1:
        return ""
    return "<p>All runs have the same test images and the same noise, so the pictures differ by the models alone.</p>"
