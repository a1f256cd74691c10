"""Evaluation rows for pictures, and what a matplotlib figure shows."""

import math

import numpy as np


def make_rows(epochs=12, best=-90.0, seed=0):
    """Evaluation rows of a plausible run; like a real one, it has no training objective at epoch 0."""
    noise = np.random.default_rng(seed).normal(size=(epochs, 3))
    rows = []
    for epoch in range(epochs):
        elbo, rate = best - 450 * math.exp(-epoch) + noise[epoch, 0], 20 * (1 - math.exp(-epoch)) + noise[epoch, 1]
        row = {
            "epoch": epoch,
            "step": 100 * epoch,
            "elbo_nats": elbo,
            "rate_nats": rate,
            "distortion_nats": -elbo - rate,
        }
        rows.append(row | ({"bound_nats": elbo + 1, "active_units": epoch} if epoch else {}))
    return rows


def column(rows, key):
    return [row[key] for row in rows if key in row]


def line_called(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
