"""Prints the tables of all estimators in Markdown, for TABLE.md in this folder, or the estimators that a text names.

python -m vae.estimators
python -m vae.estimators --find=vargrad
"""

import argparse

from vae.estimators import BY_NAME


def table() -> str:
    """Markdown tables of properties, papers and other names, in the order of `BY_NAME`."""
    properties = ["| name | latents | reductions | unbiased | least K | differentiates f |"]
    properties += ["|---|---|---|---|---|---|"]
    papers = ["| name | paper |", "|---|---|"]
    others = ["| you look for | here |", "|---|---|"]
    yes_or_no = lambda flag: "yes" if flag else "no"
    for name, entry in BY_NAME.items():
        cells = [f"`{name}`", ", ".join(entry.latents), ", ".join(entry.reductions), yes_or_no(not entry.biased)]
        cells += [str(entry.min_samples), yes_or_no(entry.differentiates_f)]
        properties.append(f"| {' | '.join(cells)} |")
        papers.append(f"| `{name}` | {entry.paper} |")
        if entry.also:
            others.append(f"| {', '.join(entry.also)} | `{name}` |")
    return "\n".join([*properties, "", *papers, "", *others])


def found(text: str) -> str:
    """A line for each estimator whose name, other names or paper contain the text.

    Raises:
      SystemExit: if there is none.
    """
    names = BY_NAME.search(text)
    if not names:
        raise SystemExit(
            f"error: --find={text}: no estimator has this in its names or its paper; without --find all are listed"
        )
    lines = []
    for name in names:
        entry = BY_NAME[name]
        others = f", also called {', '.join(entry.also)}" if entry.also else ""
        lines.append(f"{name}: {entry.display}{others}; {entry.paper}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vae.estimators", description="Prints the table of estimators.")
    parser.add_argument("--find", metavar="TEXT", help="a name, another name or a part of a paper, such as vargrad")
    text = parser.parse_args().find
    print(table() if text is None else found(text))
