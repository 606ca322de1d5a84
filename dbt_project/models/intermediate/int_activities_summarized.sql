-- Per active cohort enrollment: the integer sums that the activity columns of student_term are made of.
with days as (
  select
    days.*,
    enrollments.course_day as as_of_day,
    enrollments.course_day - days.course_day as days_ago,
    {{ floor_divide('days.course_day', 7) }} + 1 as week,
    {{ floor_divide('enrollments.course_day + 1', 7) }} as complete_weeks,
    earlier.course_day is not null as is_active_week_before
  from {{ ref('int_days_aggregated') }} as days
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.enrollment_key = days.enrollment_key
  left join {{ ref('int_days_aggregated') }} as earlier
    on earlier.enrollment_key = days.enrollment_key
    and earlier.course_day = days.course_day - 7
    and earlier.course_day >= 0
)

select
  enrollment_key,
  cast(sum(clicks) as bigint) as clicks_total,
  cast(count(*) as integer) as active_days_total,
  max(course_day) as last_active_course_day,
  cast(coalesce(sum(clicks) filter (where course_day >= 0), 0) as bigint) as clicks_since_start,
  cast(count(*) filter (where course_day >= 0) as bigint) as active_days_since_start,
  {%- set complete = 'course_day >= 0 and week <= complete_weeks' %}
  cast(coalesce(sum(clicks) filter (where {{ complete }}), 0) as bigint) as clicks_complete_weeks,
  cast(coalesce(sum(week * clicks) filter (where {{ complete }}), 0) as bigint) as week_clicks_complete_weeks,
  cast(count(*) filter (where {{ complete }}) as bigint) as active_days_complete_weeks,
  cast(coalesce(sum(week) filter (where {{ complete }}), 0) as bigint) as week_active_days_complete_weeks,
  {%- for length in [7, 14, 28] %}
  cast(coalesce(sum(clicks) filter (where days_ago < {{ length }}), 0) as bigint) as clicks_last_{{ length }}_days,
  cast(count(*) filter (where days_ago < {{ length }}) as integer) as active_days_last_{{ length }}_days,
  {%- endfor %}
  cast(coalesce(sum(clicks) filter (where course_day >= 0 and days_ago >= 14), 0) as bigint) as clicks_history,
  {%- for weekday in range(7) %}
  cast(count(*) filter (where mod(mod(course_day, 7) + 7, 7) = {{ weekday }}) as bigint) as active_days_weekday_{{ weekday }},
  {%- endfor %}
  cast(count(*) filter (where course_day >= 0 and days_ago >= 7) as bigint) as active_days_leading,
  cast(count(*) filter (where course_day >= 7) as bigint) as active_days_trailing,
  cast(count(*) filter (where is_active_week_before) as bigint) as active_day_pairs,
  cast(sum(logins) as integer) as logins_total,
  cast(sum(session_us) as bigint) as session_us
from days
group by enrollment_key
