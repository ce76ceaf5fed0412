"""Formulas of the evaluation: they take numbers, masks and features, and know of no model."""
