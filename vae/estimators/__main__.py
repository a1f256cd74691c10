"""`python -m vae.estimators` prints the table of all estimators in Markdown, for the README of this folder."""

from vae.estimators import BY_NAME


def table() -> str:
    """Returns a Markdown table with one line for each estimator, in the order of `BY_NAME`."""
    lines = [
        "| name | latents | reductions | unbiased | least K | differentiates f | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    yes_or_no = lambda flag: "yes" if flag else "no"
    for name, entry in BY_NAME.items():
        cells = [f"`{name}`", ", ".join(entry.latents), ", ".join(entry.reductions), yes_or_no(not entry.biased)]
        cells += [str(entry.min_samples), yes_or_no(entry.differentiates_f), entry.paper]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
