"""Reports of runs: `report.json`, `report.md` and pictures."""

from hq_jax.report.answers import Answers as Answers
from hq_jax.report.answers import find_right as find_right
from hq_jax.report.answers import find_worst as find_worst
from hq_jax.report.run_record import get_split as get_split
from hq_jax.report.run_record import Inputs as Inputs
from hq_jax.report.tables import format_table as format_table
from hq_jax.report.wording import describe_epochs as describe_epochs
from hq_jax.report.wording import describe_target as describe_target
from hq_jax.report.write import write as write
