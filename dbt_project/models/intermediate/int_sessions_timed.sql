-- Sessions from timestamps, per enrollment and day: a gap of over 30 minutes begins a session.
{% set gap = 30 * 60 * 1000000 -%}
{% set minute = 60 * 1000000 -%}
with timed as (
  select enrollment_key, course_day, {{ epoch_microseconds('clicked_at') }} as clicked_us
  from {{ ref('int_clicks_resolved') }}
  where clicked_at is not null
),

spaced as (
  select
    enrollment_key,
    course_day,
    clicked_us - lag(clicked_us) over in_time as since_us,
    lead(clicked_us) over in_time - clicked_us as until_us
  from timed
  window in_time as (partition by enrollment_key order by clicked_us, course_day)
)

select
  enrollment_key,
  course_day,
  cast(count(*) filter (where since_us is null or since_us > {{ gap }}) as integer) as logins,
  cast(sum(case when until_us <= {{ gap }} then until_us else {{ minute }} end) as bigint) as session_us
from spaced
group by enrollment_key, course_day
