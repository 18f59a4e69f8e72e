"""Matrix factorization (iALS) on MovieLens-100K, under the protocol of configs/movielens.py.

STJAX_DATA=FOLDER python train.py configs/movielens_ials.py       FOLDER holds movielens_100k/
"""

import dataclasses
from pathlib import Path

from stjax.training import load_config

same = load_config(Path(__file__).with_name("movielens.py"))
experiment = dataclasses.replace(
    same, name="movielens_ials", model=same.baselines[1], baselines=same.baselines
)
