{#- The state that the deliveries in effect describe: per key the row of the newest delivery that has the key.
    A delivery that repeats a key breaks a source test; until it is mended its last row counts, so that the
    state stays a function of the deliveries alone. -#}
{% macro newest_rows(relation, key) -%}
  select *
  from (
    select
      versions.*,
      row_number() over (
        partition by versions.source, {% for column in key %}versions.{{ column }}, {% endfor %}1
        order by deliveries.delivery_rank desc, versions.file_name desc, versions.file_row desc
      ) as version_rank
    from {{ relation }} as versions
    inner join {{ ref('int_deliveries_ranked') }} as deliveries
      on deliveries.delivery_id = versions.delivery_id
  ) as ranked_versions
  where version_rank = 1
{%- endmacro %}
