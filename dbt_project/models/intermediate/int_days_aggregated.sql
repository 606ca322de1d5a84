-- One row per cohort enrollment and active day.
with days as (
  {{ aggregate_days(ref('int_clicks_resolved')) }}
)

select
  days.*,
  sessions.logins,
  sessions.session_us
from days
left join {{ ref('int_sessions_timed') }} as sessions
  on sessions.enrollment_key = days.enrollment_key
  and sessions.course_day = days.course_day
