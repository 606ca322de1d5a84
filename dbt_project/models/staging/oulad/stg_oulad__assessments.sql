select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  id_assessment as assessment_id,
  assessment_type,
  "date" as cut_off_course_day,
  weight as weight_pct
from {{ source('raw', 'oulad_assessments') }}
