{#- Combinations of columns that more than one row has. -#}
{% test is_unique_together(model, columns) %}
select {{ columns | join(', ') }}, count(*) as repeated
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% endtest %}
