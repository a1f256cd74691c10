"""Writes one HTML file that shows runs, sweeps, results of the laboratory and toy problems.

    python -m experiments.report --workdir=results/quickstart
    python -m experiments.report --workdir=results/a,results/b --output=report.html

For runs, the page shows the settings that differ, tables that can be sorted, curves of the bound against steps,
examples and seconds, the rate-distortion plane, and pictures. For results of `experiments.compare_estimators`, it shows
variance against cost, bias and SNR with their intervals. The last section says how to repeat everything.

The file needs no network and no other file. Any browser shows it, on a phone and on paper, in light and dark.
"""

from pathlib import Path

from absl import flags

from experiments.common import cli, comparison, files, foreign_files, phases, run_selection, workdirs
from experiments.report.page import make_page


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "workdir",
        None,
        "Folders of runs, sweeps, laboratory results or toy problems, joined by commas.",
        flag_values=values,
    )
    flags.DEFINE_string("run", None, run_selection.HELP, flag_values=values)
    flags.DEFINE_string(
        "compare",
        None,
        f"{comparison.HELP} By default the only setting that was swept, or the estimator.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "File to write; by default report.html in the first --workdir.", flag_values=values
    )


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    with cli.one_sentence():
        if not options.workdir:
            raise ValueError("--workdir is missing; give --workdir=FOLDER, or several folders joined by commas")
        paths = [Path(name) for name in dict.fromkeys(options.workdir)]
        output = Path(options.output or paths[0] / "report.html")

        for path in paths:
            foreign_files.refuse_links(path)  # a link could put a private file of the user into a page for others
        phases.say("reading")
        contents = workdirs.read(paths, options.run)
        verdict = compare(contents, options.compare)
        if output.is_dir():
            raise ValueError(f"--output={output} is a folder; give the name of a file")
        files.check_writable(output.parent, "output")
    with cli.one_sentence(OSError):
        phases.say("drawing")
        files.write_text(output, make_page(contents, verdict, title=_title(paths)))
    print(f"{output}: {_summary(contents)}, {output.stat().st_size / 1e6:.1f} MB")


def compare(contents: workdirs.Contents, setting: str | None) -> comparison.Comparison | None:
    """The comparison of the values of a setting; None if no setting is given and there is none to compare.

    Raises:
      ValueError: If the runs cannot be compared by the given setting.
    """
    rows = [comparison.with_context(run.row, run.rows, run.record) for run in contents.runs if "status" in run.row]
    if setting:
        return comparison.compare(rows, setting)
    try:
        default = comparison.default_setting(rows)
        return comparison.compare(rows, default) if default else None
    except ValueError:
        return None


def _title(paths: list[Path]) -> str:
    if len(paths) == 1:
        return str(paths[0])
    return f"{len(paths)} workdirs: {', '.join(map(str, paths))}"


def _summary(contents: workdirs.Contents) -> str:
    shown = {"run": contents.runs, "laboratory result": contents.laboratories, "toy problem": contents.toys}
    numbers = [f"{len(items)} {name}{'s' * (len(items) > 1)}" for name, items in shown.items() if items]
    return " and ".join(numbers)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
