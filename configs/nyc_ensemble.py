"""NYC: four models of configs/nyc.py trained together, their mean probability; at four times the cost.

STJAX_DATA=FOLDER python train.py configs/nyc_ensemble.py       FOLDER holds foursquare_nyc/
"""

import dataclasses
from pathlib import Path

from stjax.nn import Ensemble
from stjax.training import load_config

one = load_config(Path(__file__).with_name("nyc.py"))
experiment = dataclasses.replace(one, name="nyc_ensemble", model=Ensemble(one.model, 4))
