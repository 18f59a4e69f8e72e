"""MovieLens-100K: four models of configs/movielens.py trained together; four times the cost.

STJAX_DATA=FOLDER python train.py configs/movielens_ensemble.py       FOLDER holds movielens_100k/
"""

import dataclasses
from pathlib import Path

from stjax.nn import Ensemble
from stjax.training import load_config

one = load_config(Path(__file__).with_name("movielens.py"))
experiment = dataclasses.replace(one, name="movielens_ensemble", model=Ensemble(one.model, 4))
