"""The part of the bibliography on statistical mechanics, in alphabetical order of the keys."""

STATMECH = r"""
"""
