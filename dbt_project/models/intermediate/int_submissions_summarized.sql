-- Per cohort enrollment: what was due, made, late and missed, and the integer sums of its scores. Nothing is due that no
-- one in the cohort is known to have submitted: its submissions may not have been delivered yet.
with submissions as (
  select
    submissions.*,
    enrollments.course_key,
    not submissions.is_banked and submissions.score_micropct is not null as is_scored
  from {{ ref('int_submissions_resolved') }} as submissions
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.enrollment_key = submissions.enrollment_key
),

-- a banked result came from an earlier presentation and says nothing of this one's delivery
submitted as (
  select distinct course_key, assessment_id
  from submissions
  where not is_banked
),

due as (
  select assessments.course_key, assessments.assessment_id
  from {{ ref('int_assessments_dated') }} as assessments
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.course_key = assessments.course_key
  inner join submitted
    on submitted.course_key = assessments.course_key
    and submitted.assessment_id = assessments.assessment_id
  where assessments.assessment_type <> 'Exam'
    and assessments.cut_off_course_day <= courses.course_day
),

due_counted as (
  select course_key, count(*) as submissions_due
  from due
  group by course_key
),

numbered as (
  select
    submissions.*,
    due.assessment_id is not null as is_due,
    row_number() over (
      partition by submissions.enrollment_key, submissions.is_scored
      order by submissions.submitted_course_day, submissions.assessment_id
    ) as score_rank
  from submissions
  left join due
    on due.course_key = submissions.course_key
    and due.assessment_id = submissions.assessment_id
),

made as (
  select
    enrollment_key,
    count(*) as submissions_made,
    count(*) filter (where not is_banked and submitted_course_day > cut_off_course_day) as submissions_late,
    count(*) filter (where is_due) as submissions_made_of_due,
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
left join due_counted as due on due.course_key = enrollments.course_key
left join made on made.enrollment_key = enrollments.enrollment_key
