{{- refuse_another_day() }}
with weeks as (
  select enrollments.*, cast(numbers.week as integer) as week
  from {{ ref('int_enrollments_selected') }} as enrollments
  cross join lateral generate_series(1, enrollments.course_week) as numbers (week)
),

activity as (
  select
    enrollment_key,
    {{ floor_divide('course_day', 7) }} + 1 as week,
    count(*) as active_days,
    sum(clicks) as clicks
  from {{ ref('int_days_aggregated') }}
  where course_day >= 0
  group by 1, 2
)

select
  {{ as_of_on() }} as as_of_on,
  weeks.student_pseudonym,
  weeks.course_id,
  weeks.week as course_week,
  least(7, weeks.course_day - 7 * (weeks.week - 1) + 1) as days_elapsed,
  cast(case when weeks.is_observed then coalesce(activity.active_days, 0) end as integer) as active_days,
  cast(case when weeks.is_observed then coalesce(activity.clicks, 0) end as bigint) as clicks
from weeks
left join activity
  on activity.enrollment_key = weeks.enrollment_key
  and activity.week = weeks.week
