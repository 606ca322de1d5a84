"""Passes over millions of rows on every core: K-Means, Gaussian mixtures, spread, order and the silhouette.

Choosing a start, scaling and what a cluster means do not belong here.

Columns are (n_features, n_rows) float32, C-contiguous, and finite. A pass goes through them once, in blocks that fit the
processor's first cache, and sums a chunk at a time: the chunks and their order depend on the rows alone, so any number of
threads gives the same bits. Within a block float32 is summed, and blocks in float64.
"""
