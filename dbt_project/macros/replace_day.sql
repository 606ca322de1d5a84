{#- Incremental strategy of the tables that carry as_of_on: the day in question is replaced whole, also by
    nothing; `delete+insert` would leave the old rows standing where the rebuilt day is empty. -#}
{% macro get_incremental_replace_day_sql(arg_dict) -%}
  {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
  delete from {{ arg_dict['target_relation'] }} where as_of_on = {{ as_of_on() }};
  insert into {{ arg_dict['target_relation'] }} ({{ columns }})
  select {{ columns }} from {{ arg_dict['temp_relation'] }}
{%- endmacro %}
