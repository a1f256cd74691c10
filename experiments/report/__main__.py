"""One HTML file of runs, sweeps, results of the laboratory and toy problems; it needs no network and no other file.

    python -m experiments.report --workdir=results/quickstart
    python -m experiments.report --workdir=results/a,results/b --output=report.html

Settings that differ, a table that sorts, curves of the bound against steps, examples and seconds, the rate-distortion
plane, pictures, and for results of `experiments.compare_estimators` variance against cost, bias and SNR with their
intervals; at the end, how to repeat it. It is read in any browser, on a phone, in print, in light and dark.
"""

from pathlib import Path

from absl import flags

from experiments.common import cli


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("workdir", None, "folders of runs, sweeps or the laboratory, comma-separated", flag_values=values)
    flags.DEFINE_string("output", None, "the file; by default report.html in the first --workdir", flag_values=values)


def main(options: flags.FlagValues = flags.FLAGS) -> None:
    from experiments.common import checks, files
    from experiments.report import contents as report_contents  # jax is not for --help
    from experiments.report import page as report_page

    with cli.one_sentence():
        if not options.workdir:
            raise ValueError("give --workdir, one folder or several joined by commas")
        paths = [Path(name) for name in dict.fromkeys(options.workdir)]
        for path in paths:
            checks.refuse_links(path)  # or a picture might be any file of the reader's, in a page made for others
        contents = report_contents.read(paths)
        title = options.workdir[0] if len(paths) == 1 else f"{len(paths)} workdirs: {', '.join(map(str, paths))}"
        text = report_page.page(contents, title)
        output = Path(options.output or paths[0] / "report.html")
        if output.is_dir():
            raise ValueError(f"--output={output} is a folder; give the name of a file")
        files.check_writable(output.parent, "output")
        files.write_text(output, text)
    found = {"run": contents.runs, "laboratory result": contents.laboratories, "toy problem": contents.toys}
    shown = [f"{len(each)} {name}{'s' if len(each) > 1 else ''}" for name, each in found.items() if each]
    print(f"{output}: {' and '.join(shown)}, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
