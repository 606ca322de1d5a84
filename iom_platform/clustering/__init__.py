"""Clusters of behavior: the registry of algorithms, measures of quality, profiles and names.

Nothing here reads or stores: frames, arrays and seeds come in as arguments, and MLflow is the storage room's.
"""
