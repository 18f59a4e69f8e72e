"""NYC, every check-in of the log: configs/nyc.py that also reads those which the published split leaves out.

    STJAX_DATA=FOLDER python train.py configs/nyc_log.py             FOLDER holds foursquare_nyc/
    ... --name nyc_log_time --model.head.known time                  the target's time may be read

Targets and candidates are those of configs/nyc.py; `FoursquareNYC.alone` says what is added.
"""

import dataclasses
from pathlib import Path

from stjax.data.sources import FoursquareNYC
from stjax.training import load_config

one = load_config(Path(__file__).with_name("nyc.py"))
experiment = dataclasses.replace(
    one,
    name="nyc_log",
    source=FoursquareNYC(alone=True),
    model=one.model.clone(dropout=0.15, head=one.model.head.clone(dropout=0.05)),
    training=dataclasses.replace(one.training, epochs=4),
)
