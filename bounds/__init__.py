"""Bounds: inductive bias, information, generalisation."""
