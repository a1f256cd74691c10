"""`python -m vae.estimators` prints the table of all estimators as Markdown: the one in README.md."""

from vae.estimators import BY_NAME


def table() -> str:
    """One line an estimator, in the order of `BY_NAME`."""
    lines = [
        "| name | latents | bounds | unbiased | least K | uses df/dz | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    yes = lambda flag: "yes" if flag else "no"
    for name, entry in BY_NAME.items():
        cells = [f"`{name}`", ", ".join(entry.latents), ", ".join(entry.bounds), yes(not entry.biased)]
        cells += [str(entry.min_samples), yes(entry.uses_gradient), entry.paper]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
