select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  code_module || '-' || code_presentation as course_id,
  module_presentation_length as presentation_length_days,
  presentation_starts_on as delivered_starts_on
from {{ source('raw', 'oulad_courses') }}
