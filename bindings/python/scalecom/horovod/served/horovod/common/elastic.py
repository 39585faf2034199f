"""Served by scalecom, which has no elastic jobs yet."""

from scalecom.horovod.missing import missing

_REMEDY = ("a job has the ranks it began with: leave elastic out, save checkpoints and start the "
           "job again")

State = missing("horovod.common.elastic.State", _REMEDY)
ObjectState = missing("horovod.common.elastic.ObjectState", _REMEDY)
run_fn = missing("horovod.common.elastic.run_fn", _REMEDY)
