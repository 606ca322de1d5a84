select
  source,
  delivery_id,
  file_name,
  file_row,
  id_assessment as assessment_id,
  student_pseudonym,
  date_submitted as submitted_course_day,
  is_banked,
  score as score_pct
from {{ source('raw', 'oulad_student_assessment') }}
