"""Dagster wiring, one file a stage: when something is computed, from what, and where it goes.

What a table, a cluster or a risk level *is* does not belong here; see the rooms to the left.
"""
