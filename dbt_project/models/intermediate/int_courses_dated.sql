-- One row per presentation, with its calendar and where the as-of day lies in it.
with courses as (
  {{ newest_rows(ref('stg_oulad__courses'), ['code_module', 'code_presentation']) }}
),

started as (
  select
    *,
    coalesce(
      delivered_starts_on,
      case
        when code_presentation similar to '[0-9]{4}B' then cast(substr(code_presentation, 1, 4) || '-02-01' as date)
        when code_presentation similar to '[0-9]{4}J' then cast(substr(code_presentation, 1, 4) || '-10-01' as date)
      end
    ) as starts_on
  from courses
),

placed as (
  select *, cast({{ as_of_on() }} - starts_on as integer) as course_day
  from started
)

select
  cast(row_number() over (order by source, course_id) as integer) as course_key,
  source,
  code_module,
  code_presentation,
  course_id,
  starts_on,
  starts_on + presentation_length_days as ends_on,
  presentation_length_days,
  course_day,
  {{ floor_divide('course_day', 7) }} + 1 as course_week,
  coalesce(course_day between 0 and presentation_length_days, false) as is_running
from placed
