"""Few-shot learning: tasks whose examples are tasks themselves, one paper each (guide, section 13.2).

A batch holds episodes: `support_image` `[episodes, support, …]` and `support_label`, from which a learner learns, and
`query_image` and `query_label`, on which it is judged; of a regression `support_inputs`, `support_target` and so on.
"""

from train.tasks.few_shot.anil import anil
from train.tasks.few_shot.maml import maml
from train.tasks.few_shot.prototypical import prototypical
from train.tasks.few_shot.reptile import reptile

FEW_SHOT = ("anil", "maml", "prototypical", "reptile")
"""The names of these tasks in a recipe."""

__all__ = ["FEW_SHOT", "anil", "maml", "prototypical", "reptile"]
