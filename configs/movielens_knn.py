"""Item-based collaborative filtering on MovieLens-100K, under the protocol of configs/movielens.py.

The half-life of 17 seconds was chosen on validation. Most likely users rated one film after the other from
lists on a screen.

STJAX_DATA=FOLDER python train.py configs/movielens_knn.py       FOLDER holds movielens_100k/
"""

import dataclasses
from pathlib import Path

from stjax.training import load_config
from stjax.tune import Integers, Log

same = load_config(Path(__file__).with_name("movielens.py"))
experiment = dataclasses.replace(
    same, name="movielens_knn", model=same.baselines[0], baselines=same.baselines
)

space = {"model.neighbours": Integers(50, 1500), "model.half_life": Log(1e-5, 1.0)}
