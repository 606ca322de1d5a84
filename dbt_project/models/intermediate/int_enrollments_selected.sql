-- The cohort of the as-of day: registered, not unregistered, in a running presentation.
select
  cast(row_number() over (order by enrollments.course_key, enrollments.student_pseudonym) as integer) as enrollment_key,
  enrollments.course_key,
  enrollments.source,
  enrollments.code_module,
  enrollments.code_presentation,
  enrollments.student_pseudonym,
  courses.course_id,
  courses.starts_on,
  courses.presentation_length_days,
  courses.course_day,
  courses.course_week,
  coalesce(observed.is_observed, false) as is_observed,
  coalesce(observed.has_timestamps, false) as has_timestamps,
  enrollments.registered_course_day,
  enrollments.num_of_prev_attempts,
  enrollments.studied_credits,
  enrollments.gender,
  enrollments.region,
  enrollments.highest_education,
  enrollments.imd_band,
  enrollments.age_band,
  enrollments.disability
from {{ ref('int_enrollments_joined') }} as enrollments
inner join {{ ref('int_courses_dated') }} as courses
  on courses.course_key = enrollments.course_key
left join {{ ref('int_courses_observed') }} as observed
  on observed.course_key = enrollments.course_key
where courses.is_running
  and enrollments.registered_course_day <= courses.course_day
  and (
    enrollments.unregistered_course_day is null
    or enrollments.unregistered_course_day > courses.course_day
  )
