"""Reports of runs: `report.json`, `report.md` and pictures."""

from hq_jax.report.run_record import Inputs as Inputs
from hq_jax.report.tables import format_table as format_table
from hq_jax.report.write import write as write
