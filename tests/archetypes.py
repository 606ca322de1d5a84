"""A twin's training rows beside the archetype of each, which its truth alone knows.

Clusters and what they are compared with do not belong here.
"""

from datetime import date
from pathlib import Path

import pandas as pd

from iom_platform.extract.synthetic import write_twin
from iom_platform.extract.twin.students import TwinKnobs
from iom_platform.notebook import TemporalFeatureExtractor
from iom_platform.risk import select_scorable

DAY = date(2026, 5, 1)
KEY = ["student_pseudonym", "course_id"]


def snapshot_of(folder: Path, knobs: TwinKnobs) -> pd.DataFrame:
    """What a model of the twin's DAY is trained on, as features/student_term has it, with the column archetype."""
    summary = write_twin(folder / "twin", students=4000, seed=7, through=DAY, knobs=knobs)
    extractor = TemporalFeatureExtractor(source="synthetic", key=b"k" * 32)
    rows = select_scorable(extractor.extract_temporal_features(folder / "twin", DAY))
    truth = pd.read_csv(summary.truth_path / "truth.csv", dtype=str)
    truth["student_pseudonym"] = [extractor.pseudonym_of(student) for student in truth["id_student"]]
    truth["course_id"] = truth["code_module"] + "-" + truth["code_presentation"]
    return rows.merge(truth[[*KEY, "archetype"]], on=KEY, validate="one_to_one")
