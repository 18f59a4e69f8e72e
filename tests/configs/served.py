"""A small model on the tiny log, for tests of serving.

python train.py tests/configs/served.py
"""

import dataclasses

from stjax.nn import GRU, ConcatFusion, ItemEmbed, Pointer, Recommender, Retrieval, TimeEmbed
from stjax.training import Training
from tests.configs.tiny import experiment as tiny

experiment = dataclasses.replace(
    tiny,
    name="served",
    model=Recommender(
        ItemEmbed(7), {"time": TimeEmbed(3)}, ConcatFusion(8), GRU(), Retrieval(pointer=Pointer(5, window=7))
    ),
    training=Training(epochs=2, checkpoint_every=100),
)
