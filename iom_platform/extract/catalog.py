"""What the rows of a delivery refer to: courses, assessments, students and enrollments, as numbers.

Rules and records do not belong here (`landing.py` has them). Rows are looked up by number, many at once, so that
text is compared once per distinct value.
"""

import numpy as np
import pyarrow as pa

from iom_platform.extract.values import Values
from iom_platform.privacy.pseudonyms import pseudonymize


class Keys:
    """A growing set of int64 keys, each with the digest of the record that brought it."""

    def __init__(self) -> None:
        self._keys = np.empty(0, dtype=np.int64)
        self._digests = np.empty(0, dtype=np.uint64)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(n,) place of each key in the set, -1 where it is not in it."""
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, places, -1)

    def add(self, keys: np.ndarray, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds rows in order; returns (n,) whether a row is the first of its key, and (n,) whether it equals that first."""
        old = self.find(keys)
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        is_old = old >= 0
        is_first = ~is_old & (first[inverse] == np.arange(len(keys)))
        of_first = digests[first][inverse] if len(keys) else digests
        if is_old.any():
            of_first = np.where(is_old, self._digests[old], of_first)
        is_new = ~is_old[first]
        all_keys = np.concatenate([self._keys, distinct[is_new]])
        order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[order]
        self._digests = np.concatenate([self._digests, digests[first][is_new]])[order]
        return is_first, of_first == digests


class Catalog:
    """Numbers for the courses, assessments and students that one delivery names; -1 is unknown."""

    def __init__(self, source: str, key: bytes) -> None:
        self._source, self._key = source, key
        self._course_numbers: dict[tuple[str, str], int] = {}
        self._starts: dict[tuple[str, str], tuple[int, bool]] = {}
        self._assessment_numbers: dict[int, int] = {}
        self._assessment_courses: dict[int, int] = {}
        self._students: dict[str, int] = {}
        self._ids: list[str] = []
        self._pseudonyms: list[str] = []
        self._introduced = np.zeros(0, dtype=bool)
        self._enrollments = Keys()
        self._pseudonym_array: pa.Array | None = None

    # -- courses ---------------------------------------------------------------------------------

    def add_course(self, course: tuple[str, str], start: int, *, is_exact: bool) -> None:
        """A course that is delivered; `start` is the ordinal of its first day."""
        self._course_numbers.setdefault(course, len(self._course_numbers))
        self._starts[course] = start, is_exact

    def find_courses(self, modules: Values, presentations: Values) -> np.ndarray:
        """(n,) number of each row's course, -1 where it is not delivered."""
        module_at = {value: i for i, value in enumerate(modules.values) if value is not None}
        presentation_at = {value: i for i, value in enumerate(presentations.values) if value is not None}
        width = max(1, len(presentations.values))
        pairs = sorted(
            (module_at[m] * width + presentation_at[p], self._course_numbers[m, p])
            for m, p in self._starts if m in module_at and p in presentation_at
        )  # fmt: skip
        return _look_up(pairs, modules.codes.astype(np.int64) * width + presentations.codes)

    def number_courses(self, modules: Values, presentations: Values) -> np.ndarray:
        """(n,) a number per distinct pair of codes, delivered or not."""
        width = max(1, len(presentations.values))
        keys = modules.codes.astype(np.int64) * width + presentations.codes
        distinct, inverse = np.unique(keys, return_inverse=True)
        courses = [(modules.values[key // width], presentations.values[key % width]) for key in distinct.tolist()]
        numbers = [self._course_numbers.setdefault(course, len(self._course_numbers)) for course in courses]
        return np.array(numbers, dtype=np.int64)[inverse]

    def starts(self, courses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) ordinal of each course's first day, and whether it was delivered and not derived; unknown: 0, False."""
        known = [*(self._starts.get(course, (0, False)) for course in self._course_numbers), (0, False)]
        return np.array([start for start, _ in known])[courses], np.array([exact for _, exact in known])[courses]

    # -- assessments -----------------------------------------------------------------------------

    def note_assessments(self, assessments: np.ndarray, courses: np.ndarray) -> None:
        self._assessment_courses.update(zip(assessments.tolist(), courses.tolist(), strict=True))

    def find_assessments(self, assessments: Values) -> tuple[np.ndarray, np.ndarray]:
        """(n,) a number per distinct assessment, delivered or not, and its course's, -1 where it is not delivered."""
        known = self._assessment_numbers
        numbers = [known.setdefault(one, len(known)) for one in assessments.values]
        courses = [self._assessment_courses.get(one, -1) for one in assessments.values]
        return (np.array(numbers, dtype=np.int64)[assessments.codes],
                np.array(courses, dtype=np.int64)[assessments.codes])  # fmt: skip

    # -- students --------------------------------------------------------------------------------

    def find_students(self, students: Values) -> np.ndarray:
        """(n,) number of each row's student, new ones included; -1 where the id is missing or bad."""
        new = [one for one in students.values if one is not None and one not in self._students]
        self._students.update(zip(new, range(len(self._students), len(self._students) + len(new)), strict=True))
        if new:
            self._ids += new
            self._pseudonyms += pseudonymize(self._key, self._source, new)
            self._pseudonym_array = None
        numbers = [-1 if one is None else self._students[one] for one in students.values]
        found: np.ndarray = np.array(numbers, dtype=np.int64)[students.codes]
        return found

    def pseudonyms(self, students: np.ndarray) -> pa.Array:
        if self._pseudonym_array is None:
            self._pseudonym_array = pa.array(self._pseudonyms, pa.string())
        return self._pseudonym_array.take(pa.array(students))

    def introduce(self, students: np.ndarray) -> list[pa.Array]:
        """(student_id, student_pseudonym) of the students among these who were not introduced before."""
        if len(self._introduced) < len(self._pseudonyms):
            grown = np.zeros(len(self._pseudonyms), dtype=bool)
            grown[: len(self._introduced)] = self._introduced
            self._introduced = grown
        is_here = np.zeros(len(self._introduced), dtype=bool)
        is_here[students] = True
        new = np.flatnonzero(is_here & ~self._introduced)
        self._introduced[new] = True
        return [
            pa.array([self._ids[i] for i in new], pa.string()),
            pa.array([self._pseudonyms[i] for i in new], pa.string()),
        ]

    # -- enrollments -----------------------------------------------------------------------------

    @staticmethod
    def pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(n,) one number for two; -1 where either is unknown."""
        return np.where((left < 0) | (right < 0), -1, (left << 32) | right)

    def note_enrollments(self, courses: np.ndarray, students: np.ndarray) -> None:
        self._enrollments.add(self.pair(courses, students), np.zeros(len(courses), dtype=np.uint64))

    def has_enrollments(self, courses: np.ndarray, students: np.ndarray) -> np.ndarray:
        """(n,) whether the student is enrolled in the course."""
        return self._enrollments.find(self.pair(courses, students)) >= 0


def _look_up(pairs: list[tuple[int, int]], keys: np.ndarray) -> np.ndarray:
    """(n,) the number that belongs to each key in the sorted `pairs`, -1 where there is none."""
    if not pairs:
        return np.full(len(keys), -1, dtype=np.int64)
    known = np.array(pairs, dtype=np.int64)
    places = np.minimum(np.searchsorted(known[:, 0], keys), len(known) - 1)
    return np.where(known[places, 0] == keys, known[places, 1], -1)
