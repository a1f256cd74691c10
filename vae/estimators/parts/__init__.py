"""Functions that several estimators share."""
