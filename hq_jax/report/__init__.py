"""What a run came to: `report.json`, `report.md` and pictures."""

from hq_jax.report.inputs import Inputs as Inputs
from hq_jax.report.tables import format_table as format_table
from hq_jax.report.writing import write as write
