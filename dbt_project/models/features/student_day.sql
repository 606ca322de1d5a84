{{- refuse_another_day() }}
select
  {{ as_of_on() }} as as_of_on,
  enrollments.student_pseudonym,
  enrollments.course_id,
  enrollments.starts_on + days.course_day as active_on,
  days.course_day,
  days.clicks,
  days.sites_visited,
  days.logins,
  days.session_us / cast(60000000 as double precision) as session_minutes
from {{ ref('int_days_aggregated') }} as days
inner join {{ ref('int_enrollments_selected') }} as enrollments
  on enrollments.enrollment_key = days.enrollment_key
