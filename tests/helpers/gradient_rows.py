"""Rows of the laboratory, made without measuring."""

from typing import Any


def make_rows(estimators: dict[str, float], samples: tuple[int, ...] = (1,), **others) -> list[dict[str, Any]]:
    """Rows of one group, "phi", with this variance for each estimator at K = 1. The FLOP and the time are K."""
    return [
        {"estimator": name, "num_samples": k, "flops": 1.0 * k, "seconds": 1e-3 * k, "declared_biased": False}
        | {"truth": "exact", "phi_biased": False, "phi_max_abs_z": 2.0, "phi_critical_z": 4.5}
        | {"phi_variance": value / k, "phi_variance_low": 0.9 * value / k, "phi_variance_high": 1.2 * value / k}
        | {"phi_snr": k**0.5, "phi_snr_low": 0.9 * k**0.5, "phi_snr_high": 1.1 * k**0.5}
        | {"phi_bias": 0.01, "phi_bias_stderr": 0.01, "phi_bias_low": -0.01, "phi_bias_high": 0.03}
        | others
        for name, value in estimators.items()
        for k in samples
    ]
