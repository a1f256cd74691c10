"""`python -m vae.estimators` prints the tables of all estimators in Markdown, for the README of this folder."""

from vae.estimators import BY_NAME


def table() -> str:
    """Returns two Markdown tables, properties and papers, with a line for each estimator in the order of `BY_NAME`."""
    properties = ["| name | latents | reductions | unbiased | least K | differentiates f |"]
    properties += ["|---|---|---|---|---|---|"]
    papers = ["| name | paper |", "|---|---|"]
    yes_or_no = lambda flag: "yes" if flag else "no"
    for name, entry in BY_NAME.items():
        cells = [f"`{name}`", ", ".join(entry.latents), ", ".join(entry.reductions), yes_or_no(not entry.biased)]
        cells += [str(entry.min_samples), yes_or_no(entry.differentiates_f)]
        properties.append(f"| {' | '.join(cells)} |")
        papers.append(f"| `{name}` | {entry.paper} |")
    return "\n".join([*properties, "", *papers])


if __name__ == "__main__":
    print(table())
