-- The cohort's submissions up to the as-of day, exams aside, beside their cut-off.
with submissions as (
  {{ newest_rows(ref('stg_oulad__submissions'), ['assessment_id', 'student_pseudonym']) }}
)

select
  enrollments.enrollment_key,
  assessments.assessment_id,
  assessments.assessment_type,
  assessments.cut_off_course_day,
  submissions.submitted_course_day,
  submissions.is_banked,
  cast(round(cast(submissions.score_pct * 1000000 as numeric(28, 4))) as bigint) as score_micropct
from submissions
inner join {{ ref('int_assessments_dated') }} as assessments
  on assessments.source = submissions.source
  and assessments.assessment_id = submissions.assessment_id
inner join {{ ref('int_enrollments_selected') }} as enrollments
  on enrollments.course_key = assessments.course_key
  and enrollments.student_pseudonym = submissions.student_pseudonym
where assessments.assessment_type <> 'Exam'
  and submissions.submitted_course_day <= enrollments.course_day
