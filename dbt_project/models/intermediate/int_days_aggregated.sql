-- One row per cohort enrollment and active day. Grouping by site first is faster in both engines than count(distinct).
with sites as (
  select enrollment_key, course_day, site_id, sum(clicks) as clicks
  from {{ ref('int_clicks_resolved') }}
  group by enrollment_key, course_day, site_id
),

days as (
  select
    enrollment_key,
    course_day,
    cast(sum(clicks) as bigint) as clicks,
    cast(count(*) as integer) as sites_visited
  from sites
  group by enrollment_key, course_day
)

select
  days.*,
  sessions.logins,
  sessions.session_us
from days
left join {{ ref('int_sessions_timed') }} as sessions
  on sessions.enrollment_key = days.enrollment_key
  and sessions.course_day = days.course_day
