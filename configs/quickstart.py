"""Real check-ins in New York: the next place of a week, from its place, time, weather, price and rating.

python train.py
"""

from stjax.data.protocols import LeaveOneOut
from stjax.data.sources import Quickstart
from stjax.nn import (
    GRU,
    ContextEmbed,
    GatedFusion,
    ItemEmbed,
    Pointer,
    Recommender,
    Retrieval,
    SpaceEmbed,
    TimeEmbed,
)
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training

LENGTH, BUCKETS = 64, (16, 32)

experiment = Experiment(
    name="quickstart",
    source=Quickstart(),
    protocol=LeaveOneOut(),
    model=Recommender(
        items=ItemEmbed(64),
        encoders={"time": TimeEmbed(), "space": SpaceEmbed(), "context": ContextEmbed()},
        fusion=GatedFusion(64),
        interest=GRU(),
        head=Retrieval(pointer=Pointer(window=LENGTH), dropout=0.2),
        dropout=0.2,
    ),
    batching=Batching(length=LENGTH, batch_size=32, buckets=BUCKETS),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=8),
    evaluation=Evaluation(length=LENGTH, buckets=BUCKETS, block=256),
)
