"""Where state lives: the PostgreSQL server, the record, the warehouse, the model registry and the expectations.

What a number means, or when it is computed, does not belong here.
"""
