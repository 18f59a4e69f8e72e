"""Foursquare NYC, the published split: the last check-in of each trajectory, from all earlier history.

    STJAX_DATA=FOLDER python train.py configs/nyc.py             FOLDER holds foursquare_nyc/
    ... --name nyc_time --model.head.known time                  the target's time may be read
    ... --name nyc_training --protocol.history training          history of training and own trajectory

The published tables and the differences of data are in benchmarks/accuracy/README.md.
"""

from stjax.baselines import PopularHere
from stjax.data.protocols import TrajectoryLast
from stjax.data.sources import FoursquareNYC
from stjax.nn import (
    GRU,
    ConcatFusion,
    Distance,
    ItemEmbed,
    Pointer,
    Recommender,
    Retrieval,
    SpaceEmbed,
    TimeEmbed,
)
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from stjax.tune import Choice, Log, Uniform

LENGTH, BUCKETS = 512, (32, 64, 128, 256)

experiment = Experiment(
    name="nyc",
    source=FoursquareNYC(),
    protocol=TrajectoryLast(),
    model=Recommender(
        items=ItemEmbed(64),
        encoders={"time": TimeEmbed(), "space": SpaceEmbed()},
        fusion=ConcatFusion(64),
        interest=GRU(),
        head=Retrieval(pointer=Pointer(window=LENGTH), distance=Distance(knots=(0.1, 0.5, 2.0, 8.0))),
    ),
    batching=Batching(length=LENGTH, overlap=64, batch_size=8, buckets=BUCKETS),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=6),
    evaluation=Evaluation(length=LENGTH, buckets=BUCKETS, block=128),
    baselines=(PopularHere(),),
)

space = {
    "training.epochs": Choice(3, 4, 6),
    "optimizer.learning_rate": Log(1e-3, 5e-3),
    "batching.batch_size": Choice(4, 8, 16),
    "model.dropout": Uniform(0.0, 0.4),
    "model.head.dropout": Uniform(0.0, 0.4),
}
