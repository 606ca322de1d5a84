-- The cohort's submissions up to the as-of day, exams aside, beside their cut-off.
with assessments as (
  {{ newest_rows(ref('stg_oulad__assessments'), ['assessment_id']) }}
),

submissions as (
  {{ newest_rows(ref('stg_oulad__submissions'), ['assessment_id', 'student_pseudonym']) }}
)

select
  enrollments.enrollment_key,
  assessments.assessment_id,
  assessments.assessment_type,
  coalesce(assessments.cut_off_course_day, enrollments.presentation_length_days) as cut_off_course_day,
  submissions.submitted_course_day,
  submissions.is_banked,
  cast(round(cast(submissions.score_pct * 1000000 as numeric(28, 4))) as bigint) as score_micropct
from submissions
inner join assessments
  on assessments.source = submissions.source
  and assessments.assessment_id = submissions.assessment_id
inner join {{ ref('int_enrollments_selected') }} as enrollments
  on enrollments.source = assessments.source
  and enrollments.code_module = assessments.code_module
  and enrollments.code_presentation = assessments.code_presentation
  and enrollments.student_pseudonym = submissions.student_pseudonym
where assessments.assessment_type <> 'Exam'
  and submissions.submitted_course_day <= enrollments.course_day
