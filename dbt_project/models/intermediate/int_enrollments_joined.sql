-- One row per enrollment of any presentation: registration beside demographics and final result.
{% set key = ['code_module', 'code_presentation', 'student_pseudonym'] -%}
with registrations as (
  {{ newest_rows(ref('stg_oulad__registrations'), key) }}
),

students as (
  {{ newest_rows(ref('stg_oulad__students'), key) }}
),

enrollments as (
  select
    coalesce(registrations.source, students.source) as source,
    coalesce(registrations.code_module, students.code_module) as code_module,
    coalesce(registrations.code_presentation, students.code_presentation) as code_presentation,
    coalesce(registrations.student_pseudonym, students.student_pseudonym) as student_pseudonym,
    registrations.registered_course_day,
    registrations.unregistered_course_day,
    students.num_of_prev_attempts,
    students.studied_credits,
    students.gender,
    students.region,
    students.highest_education,
    students.imd_band,
    students.age_band,
    students.disability,
    students.final_result
  from registrations
  full join students
    on students.source = registrations.source
    and students.code_module = registrations.code_module
    and students.code_presentation = registrations.code_presentation
    and students.student_pseudonym = registrations.student_pseudonym
)

select
  enrollments.*,
  courses.course_key
from enrollments
left join {{ ref('int_courses_dated') }} as courses
  on courses.source = enrollments.source
  and courses.code_module = enrollments.code_module
  and courses.code_presentation = enrollments.code_presentation
