"""Matrix factorization (BPR) on MovieLens-100K, under the protocol of configs/movielens.py.

STJAX_DATA=FOLDER python train.py configs/movielens_bpr.py       FOLDER holds movielens_100k/
"""

import dataclasses
from pathlib import Path

from stjax.training import load_config

same = load_config(Path(__file__).with_name("movielens.py"))
experiment = dataclasses.replace(
    same, name="movielens_bpr", model=same.baselines[2], baselines=same.baselines
)
