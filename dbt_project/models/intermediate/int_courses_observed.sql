-- What is known at all of a running presentation's activity: any click row of anybody, up to the as-of day.
select
  courses.course_key,
  true as is_observed,
  count(clicks.clicked_at) > 0 as has_timestamps
from {{ ref('stg_oulad__clicks') }} as clicks
inner join {{ ref('int_deliveries_ranked') }} as deliveries
  on deliveries.delivery_id = clicks.delivery_id
inner join {{ ref('int_courses_dated') }} as courses
  on courses.source = deliveries.source
  and courses.code_module = clicks.code_module
  and courses.code_presentation = clicks.code_presentation
where courses.is_running and clicks.course_day <= courses.course_day
group by courses.course_key
