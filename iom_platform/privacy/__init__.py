"""Privacy maths: pseudonyms and k-anonymity over frames and plain values.

No file, database, clock or secret store is touched here.
"""
