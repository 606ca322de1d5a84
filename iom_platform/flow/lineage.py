"""The lineage of champions: a new one is compared with the one before it on the rows that it was trained on.

How clusters are known again belongs to `iom_platform.clustering.identity`, choosing a champion to `flow/promotion.py`.
"""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from iom_platform.settings import Settings
from iom_platform.tables import LINEAGE, MODEL_NAME

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def trace_lineage(
    log: logging.Logger,
    settings: Settings,
    panel: "pd.DataFrame",
    version: int,
    former: dict[str, Any] | None,
) -> "pd.DataFrame":
    """The lineage rows of a version; panel: its training snapshot; former: the promotion before it, None for none."""
    import numpy as np
    import pandas as pd

    from iom_platform.clustering.algorithms import assign
    from iom_platform.clustering.centers import NOISE, centers_of
    from iom_platform.clustering.identity import name_clusters, trace_clusters
    from iom_platform.clustering.preprocessing import Inputs, build_scaling
    from iom_platform.clustering.profiles import profile_clusters
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import read_lineage
    from iom_platform.storage.record import open_record

    model, _ = Registry.of(settings).load_model(MODEL_NAME, version)
    labels, _ = assign(model, panel)
    former_labels, before = np.full(len(panel), NOISE), pd.DataFrame(columns=list(LINEAGE.column_names))
    if former:
        with open_record(settings) as conn:
            before = read_lineage(conn, MODEL_NAME, former["model_version"]).dropna(subset="cluster")
        if len(before):
            former_labels = _assign_former(log, settings, panel, former["model_version"], former_labels)
    traced = trace_clusters(
        # a cluster is where it is, whatever its model makes of the inputs
        former_labels, labels, build_scaling().fit_transform(Inputs.of(panel).filled), clusters=np.unique(centers_of(model[-1])[1]).tolist(),
        former_uids=dict(zip(before["cluster"].astype(int), before["cluster_uid"], strict=True)),
    )  # fmt: skip
    names = name_clusters(
        traced, profile_clusters(panel, labels, k=settings.privacy.k),
        former_names=dict(zip(before["cluster_uid"], before["name"], strict=True)),
    )  # fmt: skip
    found = pd.DataFrame([asdict(t) for t in traced]).assign(name=names, model_name=MODEL_NAME, model_version=version)
    known = former["model_version"] if former and len(before) else None
    found["former_version"] = pd.array([known] * len(found), dtype="Int64")
    return found[list(LINEAGE.column_names)]


def _assign_former(
    log: logging.Logger, settings: Settings, panel: "pd.DataFrame", version: int, otherwise: "np.ndarray"
) -> "np.ndarray":
    """The panel's clusters by the former champion; `otherwise` where it is lost, since a refit is the remedy for that."""
    from iom_platform.clustering.algorithms import assign
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.model_runs import RegistryError

    try:
        model, _ = Registry.of(settings).load_model(MODEL_NAME, version)
        return assign(model, panel)[0]
    except (RegistryError, ValueError) as error:
        log.warning(f"No cluster is known again, so every uid of version {version} ends: {error}")
        return otherwise


def read_uids(settings: Settings, version: int) -> dict[int, str]:
    """The uid of each cluster of a version, empty where the version has no lineage."""
    from iom_platform.storage.promotions import read_lineage
    from iom_platform.storage.record import open_record

    with open_record(settings) as conn:
        living = read_lineage(conn, MODEL_NAME, version).dropna(subset="cluster")
    return dict(zip(living["cluster"].astype(int), living["cluster_uid"], strict=True))


def say_changes(lineage: "pd.DataFrame") -> str:
    """How many uids changed in which way, such as "3 same, 1 split"."""
    from iom_platform.clustering.identity import CHANGES

    counts = lineage["change"].value_counts()
    return ", ".join(f"{counts[change]} {change}" for change in CHANGES if change in counts) or "none"
