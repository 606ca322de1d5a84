-- One row per enrollment of a presentation in the state: demographics and final result beside its registration. A row of
-- an increment that refers to a presentation or an enrollment that no delivery in effect holds makes none.
{% set key = ['code_module', 'code_presentation', 'student_pseudonym'] -%}
with registrations as (
  {{ newest_rows(ref('stg_oulad__registrations'), key) }}
),

students as (
  {{ newest_rows(ref('stg_oulad__students'), key) }}
)

select
  students.source,
  students.code_module,
  students.code_presentation,
  students.student_pseudonym,
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
  students.final_result,
  courses.course_key
from students
inner join {{ ref('int_courses_dated') }} as courses
  on courses.source = students.source
  and courses.code_module = students.code_module
  and courses.code_presentation = students.code_presentation
left join registrations
  on registrations.source = students.source
  and registrations.code_module = students.code_module
  and registrations.code_presentation = students.code_presentation
  and registrations.student_pseudonym = students.student_pseudonym
