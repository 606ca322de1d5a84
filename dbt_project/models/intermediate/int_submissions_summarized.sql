-- Per cohort enrollment: what was due, made, late and missed, and the integer sums of its scores.
with due as (
  select courses.course_key, count(*) as submissions_due
  from {{ ref('int_assessments_dated') }} as assessments
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.course_key = assessments.course_key
  where assessments.assessment_type <> 'Exam'
    and assessments.cut_off_course_day <= courses.course_day
  group by courses.course_key
),

numbered as (
  select
    submissions.*,
    enrollments.course_day as as_of_day,
    not submissions.is_banked and submissions.score_micropct is not null as is_scored,
    row_number() over (
      partition by submissions.enrollment_key, not submissions.is_banked and submissions.score_micropct is not null
      order by submissions.submitted_course_day, submissions.assessment_id
    ) as score_rank
  from {{ ref('int_submissions_resolved') }} as submissions
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.enrollment_key = submissions.enrollment_key
),

made as (
  select
    enrollment_key,
    count(*) as submissions_made,
    count(*) filter (where not is_banked and submitted_course_day > cut_off_course_day) as submissions_late,
    count(*) filter (where cut_off_course_day <= as_of_day) as submissions_made_of_due,
    count(*) filter (where is_scored) as scores,
    sum(score_micropct) filter (where is_scored) as score_sum,
    sum(score_rank * score_micropct) filter (where is_scored) as rank_score_sum,
    count(*) filter (where is_scored and assessment_type = 'CMA') as computer_marked_scores,
    sum(score_micropct) filter (where is_scored and assessment_type = 'CMA') as computer_marked_score_sum
  from numbered
  group by enrollment_key
)

select
  enrollments.enrollment_key,
  cast(coalesce(due.submissions_due, 0) as integer) as submissions_due,
  cast(coalesce(made.submissions_made, 0) as integer) as submissions_made,
  cast(coalesce(made.submissions_late, 0) as integer) as submissions_late,
  cast(coalesce(due.submissions_due, 0) - coalesce(made.submissions_made_of_due, 0) as integer) as submissions_missed,
  cast(coalesce(made.scores, 0) as bigint) as scores,
  cast(made.score_sum as bigint) as score_micropct_sum,
  cast(made.rank_score_sum as bigint) as rank_score_micropct_sum,
  cast(coalesce(made.computer_marked_scores, 0) as bigint) as computer_marked_scores,
  cast(made.computer_marked_score_sum as bigint) as computer_marked_score_micropct_sum
from {{ ref('int_enrollments_selected') }} as enrollments
left join due on due.course_key = enrollments.course_key
left join made on made.enrollment_key = enrollments.enrollment_key
