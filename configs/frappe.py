"""Frappe: which app is used in a context (part of day, weekday, weather, place), without order in time.

    STJAX_DATA=FOLDER python train.py configs/frappe.py          FOLDER holds frappe/

Rows are split at random, and a target reads the training rows of its user. AUC and log loss are of each
target beside two apps that the user did not use in that context. `cost` is a property of the app here, and is
not read as context. As a target reads all rows of its user but itself, so does what is learnt
(`leave_one_out`).
"""

from stjax.data.protocols import RandomSplit
from stjax.data.sources import Frappe
from stjax.nn import (
    Choice,
    ConcatFusion,
    ContextEmbed,
    ItemEmbed,
    Mean,
    Ranking,
    Recommender,
    Retrieval,
    SampledSoftmax,
    UserEmbed,
)
from stjax.training import Batching, Evaluation, Experiment, Optimizer, Training
from stjax.tune import Choice as Among
from stjax.tune import Log, Uniform

LENGTH, BUCKETS = 768, (8, 32, 96, 192, 384)
CONTEXT = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")

model = Recommender(
    items=ItemEmbed(64),
    encoders={"context": ContextEmbed(64), "user": UserEmbed(64)},
    fusion=ConcatFusion(64),
    interest=Mean(),
    head=Retrieval(known=CONTEXT, objective=SampledSoftmax(256), dropout=0.2),
    ranking=Ranking((Choice(weight=30.0),), memory=LENGTH, dropout=0.2),
    ordered=False,
    leave_one_out=True,
    dropout=0.2,
)

experiment = Experiment(
    name="frappe",
    source=Frappe(),
    protocol=RandomSplit(valid=0.2, test=0.1),
    model=model,
    batching=Batching(length=LENGTH, batch_size=2, buckets=BUCKETS),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=50, b2=0.98),
    training=Training(epochs=10, eval_every=2),
    evaluation=Evaluation(negatives=2, select="AUC", length=LENGTH, buckets=BUCKETS, block=256),
)

space = {
    "training.epochs": Among(10, 16),
    "optimizer.learning_rate": Log(1e-3, 4e-3),
    "batching.batch_size": Among(2, 4),
    "model.dropout": Uniform(0.0, 0.3),
    "model.head.dropout": Uniform(0.0, 0.3),
    "model.ranking.dropout": Uniform(0.0, 0.3),
    "model.ranking.hidden": Among(64, 128),
}
