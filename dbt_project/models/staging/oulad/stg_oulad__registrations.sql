select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  student_pseudonym,
  date_registration as registered_course_day,
  date_unregistration as unregistered_course_day
from {{ source('raw', 'oulad_student_registration') }}
