"""Served by scalecom, which has no elastic jobs yet."""

from horovod.common.elastic import ObjectState
from scalecom.horovod.missing import missing

_REMEDY = ("a job has the ranks it began with: leave hvd.elastic out, save checkpoints and start "
           "the job again")

run = missing("hvd.elastic.run", _REMEDY)
TorchState = missing("hvd.elastic.TorchState", _REMEDY)
ElasticSampler = missing("hvd.elastic.ElasticSampler",
                         "use torch.utils.data.distributed.DistributedSampler")

__all__ = ["ElasticSampler", "ObjectState", "TorchState", "run"]
