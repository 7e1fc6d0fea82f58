"""Tables in Markdown, as those who read them see them."""

import re


def read_tables(text: str) -> list[list[list[str]]]:
  """Every table: the cells of its rows, without the rule below the heads."""
  found = re.findall(r'(?:^\|.*\|$\n?)+', text, re.MULTILINE)
  tables = []
  for table in found:
    heads, rule, *rows = (
      [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
      for line in table.splitlines()
    )
    assert all(re.fullmatch(':?-+:?', cell) for cell in rule)
    assert {len(row) for row in [heads, rule, *rows]} == {len(heads)}
    tables.append([heads, *rows])
  return tables
