{{ config(materialized='incremental', incremental_strategy='replace_day', on_schema_change='fail', full_refresh=false) }}
{{- refuse_another_day() }}
with outcomes as (
  select
    enrollments.student_pseudonym,
    courses.course_id,
    enrollments.final_result as outcome,
    case
      when enrollments.final_result = 'Withdrawn'
        then coalesce(courses.starts_on + enrollments.unregistered_course_day, courses.ends_on)
      else courses.ends_on
    end as outcome_known_on
  from {{ ref('int_enrollments_joined') }} as enrollments
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.course_key = enrollments.course_key
  where enrollments.final_result is not null
)

select
  {{ as_of_on() }} as as_of_on,
  outcomes.student_pseudonym,
  outcomes.course_id,
  outcomes.outcome,
  outcomes.outcome_known_on,
  deliveries.delivery_set
from outcomes
cross join (select distinct delivery_set from {{ ref('int_deliveries_ranked') }}) as deliveries
where outcomes.outcome_known_on <= {{ as_of_on() }}
