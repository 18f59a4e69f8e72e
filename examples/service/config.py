"""A model to serve: the next check-in of a week in New York, from the week so far and the time and place now.

python train.py examples/service/config.py
python -m examples.service runs/service --state runs/service-state --kind root_category

Test MRR .518 ± .008, where Markov with back-off, which reads the time alone, has .308 (seed 0).
"""

from examples.service.nearby import Nearby
from stjax.data.protocols import LeaveOneOut
from stjax.nn import (
    GRU,
    Distance,
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
    name="service",
    source=Nearby(),
    protocol=LeaveOneOut(),
    model=Recommender(
        items=ItemEmbed(64),
        encoders={"time": TimeEmbed(), "space": SpaceEmbed()},
        fusion=GatedFusion(64),
        interest=GRU(),
        head=Retrieval(
            known=("time", "place"),
            pointer=Pointer(window=LENGTH),
            distance=Distance(knots=(0.1, 0.5, 2.0, 8.0)),
            dropout=0.2,
        ),
        dropout=0.2,
    ),
    batching=Batching(length=LENGTH, batch_size=32, buckets=BUCKETS),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=8),
    evaluation=Evaluation(length=LENGTH, buckets=BUCKETS, block=256),
)
