select
  source,
  delivery_id,
  file_name,
  file_row,
  code_module,
  code_presentation,
  id_site as site_id,
  activity_type
from {{ source('raw', 'oulad_vle') }}
