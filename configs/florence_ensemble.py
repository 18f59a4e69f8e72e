"""Florence: four models of configs/florence.py trained together, their mean probability.

STJAX_DATA=FOLDER python train.py configs/florence_ensemble.py       FOLDER holds tripbuilder/
"""

import dataclasses
from pathlib import Path

from stjax.nn import Ensemble
from stjax.training import load_config

one = load_config(Path(__file__).with_name("florence.py"))
experiment = dataclasses.replace(one, name="florence_ensemble", model=Ensemble(one.model, 4))
