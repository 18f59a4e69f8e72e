"""MovieLens-100K, leave-one-out, full ranking, seen films filtered.

STJAX_DATA=FOLDER python train.py configs/movielens.py       FOLDER holds movielens_100k/
"""

from stjax.baselines import BPR, IALS, ItemKNN
from stjax.data.protocols import LeaveOneOut
from stjax.data.sources import MovieLens100K
from stjax.nn import ConcatFusion, ContextEmbed, ItemEmbed, Recommender, Retrieval, SelfAttention, TimeEmbed
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from stjax.tune import Choice, Integers, Log, Uniform

LENGTH = 50

experiment = Experiment(
    name="movielens",
    source=MovieLens100K(),
    protocol=LeaveOneOut(),
    model=Recommender(
        items=ItemEmbed(64),
        encoders={"time": TimeEmbed(16), "context": ContextEmbed(16)},
        fusion=ConcatFusion(64),
        interest=SelfAttention(layers=3, heads=2, window=LENGTH, expansion=1, dropout=0.34),
        head=Retrieval(dropout=0.19),
        dropout=0.25,
    ),
    batching=Batching(length=LENGTH, batch_size=64),
    optimizer=Optimizer(learning_rate=4.6e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=40, eval_every=4),
    evaluation=Evaluation(filter_seen=True, select="NDCG@10", length=LENGTH, block=256),
    baselines=(ItemKNN(neighbours=1000, half_life=2e-4), IALS(factors=128), BPR(popularity=0.25)),
)

space = {
    "optimizer.learning_rate": Log(1e-3, 6e-3),
    "batching.batch_size": Choice(64, 128, 256),
    "model.interest.layers": Integers(1, 3),
    "model.interest.dropout": Uniform(0.1, 0.5),
    "model.dropout": Uniform(0.1, 0.5),
    "model.head.dropout": Uniform(0.1, 0.5),
}
