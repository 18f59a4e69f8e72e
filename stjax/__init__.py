"""stjax: spatiotemporal sequential recommendation in JAX and Flax.

The contract between data, model and server is here; the parts are in `stjax.nn` (modules), `stjax.ops`
(their mathematics), `stjax.data` (from a log to batches), `stjax.baselines`, `stjax.evaluation` and
`stjax.training`.
"""

from stjax.events import Attributes, Batch, Catalogue, Events, Field, Query, Question, Schema

__version__ = "0.1.0"

__all__ = ["Attributes", "Batch", "Catalogue", "Events", "Field", "Query", "Question", "Schema"]
