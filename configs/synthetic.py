"""A generated city, whose true next-place probabilities are known: needs no data and no network.

python train.py configs/synthetic.py
"""

from stjax.data.city import City
from stjax.data.protocols import GlobalTemporal
from stjax.data.sources import SyntheticCity
from stjax.nn import (
    Auxiliary,
    ConcatFusion,
    ContextEmbed,
    Distance,
    ItemEmbed,
    Pointer,
    ProfileEmbed,
    Recommender,
    Retrieval,
    SelfAttention,
    SpaceEmbed,
    TimeEmbed,
)
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training

LENGTH, BUCKETS = 96, (48,)

experiment = Experiment(
    name="synthetic",
    source=SyntheticCity(City()),
    protocol=GlobalTemporal(),
    model=Recommender(
        items=ItemEmbed(64),
        encoders={
            "time": TimeEmbed(),
            "space": SpaceEmbed(),
            "context": ContextEmbed(),
            "profile": ProfileEmbed(),
        },
        fusion=ConcatFusion(64),
        interest=SelfAttention(layers=1, heads=2, window=LENGTH, dropout=0.1),
        head=Retrieval(
            known=("time",),
            pointer=Pointer(window=LENGTH),
            distance=Distance(),
            auxiliary=(Auxiliary("category", 0.3),),
        ),
    ),
    batching=Batching(length=LENGTH, overlap=16, batch_size=16, buckets=BUCKETS),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=6),
    evaluation=Evaluation(length=LENGTH, buckets=BUCKETS, block=256, validation_targets=2_000),
)
