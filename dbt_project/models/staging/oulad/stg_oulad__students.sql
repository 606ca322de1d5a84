select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  student_pseudonym,
  gender,
  region,
  highest_education,
  imd_band,
  age_band,
  num_of_prev_attempts,
  studied_credits,
  disability,
  final_result
from {{ source('raw', 'oulad_student_info') }}
