select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  student_pseudonym,
  id_site as site_id,
  "date" as course_day,
  sum_click as clicks,
  clicked_at
from {{ source('raw', 'oulad_student_vle') }}
