"""Elastic training with PyTorch: ``hvd.elastic``."""

import copy
import math
import random

import torch

from scalecom import basics
from scalecom._library import own_name
from scalecom.elastic import ObjectState, run
from scalecom.process_sets import global_process_set
from scalecom.reductions import Adasum, Average
from scalecom.residuals import KeptResiduals
from scalecom.torch.functions import (allgather_object, broadcast_object,
                                      broadcast_parameters, share_optimizer_state)
from scalecom.torch.residuals import residuals

__all__ = ["ElasticSampler", "ObjectState", "TorchState", "run"]


class ElasticSampler(torch.utils.data.Sampler):
    """The indices of a dataset for this rank, without those that an epoch has had already.

    After a reset, what is left of the epoch is divided anew between the ranks that are there. All
    ranks have equally many: where it does not work out, some indices come twice. shuffle: in an order
    that seed and epoch decide, the same on all ranks.
    """

    def __init__(self, dataset, shuffle=True, seed=0):
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.processed_indices = set()
        self.reset()
        self.indices = self._share  # Of the last iteration that began.

    def set_epoch(self, epoch):
        """Begins an epoch: nothing of it has been processed."""
        self.epoch = epoch
        self.processed_indices = set()
        self.reset()

    def record_batch(self, batch_idx, batch_size):
        """Batch number batch_idx of this iteration, of batch_size, has been processed."""
        self.record_indices(self.get_indices(batch_idx, batch_size))

    def record_indices(self, indices):
        """These have been processed: places in the data set."""
        self.processed_indices.update(indices)

    def get_indices(self, batch_idx, batch_size):
        """The indices of a batch of the last iteration that began; a reset() counts from the next."""
        return self.indices[batch_idx * batch_size:(batch_idx + 1) * batch_size]

    @property
    def processed_num(self):
        """How many of the epoch's indices this rank knows to be processed: its own, and all ranks' up
        to the last sync()."""
        return len(self.processed_indices)

    def state_dict(self):
        """The epoch, and what of it is processed."""
        return {"epoch": self.epoch, "processed_indices": set(self.processed_indices)}

    def load_state_dict(self, state_dict):
        """Goes on from there, with the ranks that are there now."""
        self.epoch = state_dict["epoch"]
        self.processed_indices = set(state_dict["processed_indices"])
        self.reset()

    def reset(self):
        """Divides what is left of the epoch between the ranks that are there now."""
        self.rank, self.num_replicas = basics.rank(), basics.size()
        left = [one for one in range(len(self.dataset)) if one not in self.processed_indices]
        self.remaining_indices = left
        self.num_samples = math.ceil(len(left) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        order = list(left)
        if self.shuffle:
            random.Random(f"{self.seed}.{self.epoch}").shuffle(order)
        order = [order[place % len(order)] for place in range(self.total_size)]
        self._share = order[self.rank::self.num_replicas]

    def __iter__(self):
        self.indices = self._share
        return iter(list(self.indices))

    def __len__(self):
        return self.num_samples


class _ModelKeeper:
    """Saves a module, and gives it to all ranks."""

    def __init__(self, value):
        self.value = value
        self.keep(self.copied())

    def copied(self):
        """What there is to be saved."""
        return copy.deepcopy(self.value.state_dict())

    def keep(self, copied, is_sync=False):
        """Makes that the last save; cannot fail. is_sync: it is what sync() gave."""
        self._saved = copied

    def restore(self):
        self.value.load_state_dict(self._saved)

    def sync(self):
        """Gives rank 0's to all ranks; it is not saved yet."""
        broadcast_parameters(self.value.state_dict(), root_rank=0)

    def sync_own(self):
        """Where all ranks have it already."""

    def reset(self):
        pass


class _OptimizerKeeper(_ModelKeeper):
    """The same for an optimizer. Residuals, which end with a session, come back with sync().
    ValueError for a DistributedOptimizer of a process set."""

    def __init__(self, value):
        settings = getattr(value, "_scalecom", None)
        if settings and settings.process_set not in (None, global_process_set):
            raise ValueError(f"the optimizer is of {settings.process_set}; a TorchState keeps none of "
                             "a process set, which ends with a change of ranks: leave it out of the "
                             "state, and make it anew in a reset callback")
        self._kept = KeptResiduals(residuals, broadcast_object, allgather_object)
        super().__init__(value)

    def _names(self):
        settings = getattr(self.value, "_scalecom", None)  # Of a DistributedOptimizer.
        return set(settings.names.values()) if settings else set()

    def copied(self):
        saved = self.value.state_dict()
        owed = saved.pop("scalecom", None)  # Copies already.
        return copy.deepcopy(saved), owed

    def keep(self, copied, is_sync=False):
        self._saved, owed = copied
        if owed is not None:
            self._kept.save(owed)

    def restore(self):
        self.value.load_state_dict(copy.deepcopy(self._saved))

    def sync(self):
        share_optimizer_state(self.value, root_rank=0)
        self.sync_own()

    def sync_own(self):
        names = self._names()
        if names and self.value._scalecom.op != Adasum:
            self._kept.sync(names, self.value._scalecom.op == Average)

    def reset(self):
        if self._names():
            self.value.forget_step()
        self.value.zero_grad()


class _SamplerKeeper(_ModelKeeper):
    """The same for an ElasticSampler: an index that any rank had processed when rank 0 saved its
    state is processed.

    A rank that is lost during a commit leaves some that have saved and some that have not; they
    differ by one save, as a commit is agreed upon. So the save before the last one is kept, too.
    """

    _saves = 0  # Since the last sync(), which all ranks do alike.
    _before = None  # What the last save took the place of.

    def keep(self, copied, is_sync=False):
        self._saves = 0 if is_sync else self._saves
        if self._saves > 0:
            self._before = self._saved
        self._saves += 1
        super().keep(copied)

    def sync(self):
        states = allgather_object({"saves": self._saves, "now": self.value.state_dict(),
                                   "before": self._before}, own_name("sampler of the elastic state"))
        as_of = [one["before"] if one["saves"] > states[0]["saves"] else one["now"]
                 for one in states]
        epoch = as_of[0]["epoch"]
        processed = set().union(*(one["processed_indices"] for one in as_of
                                  if one["epoch"] == epoch))
        self.value.load_state_dict({"epoch": epoch, "processed_indices": processed})

    def sync_own(self):
        self.sync()


_KEEPERS = ((torch.nn.Module, _ModelKeeper), (torch.optim.Optimizer, _OptimizerKeeper),
            (ElasticSampler, _SamplerKeeper))


def _keeper_of(value):
    return next((keeper(value) for kind, keeper in _KEEPERS if isinstance(value, kind)), None)


class TorchState(ObjectState):
    """Modules, optimizers and ElasticSamplers by their contents, other attributes by copies.

    Make it after init(). `state = TorchState(model=model, optimizer=optimizer, batch=0)` has
    state.model, state.optimizer and state.batch. Residuals of a DistributedOptimizer are part of it.
    """

    def __init__(self, model=None, optimizer=None, **kwargs):
        given = {"model": model, "optimizer": optimizer, **kwargs}
        keepers = {name: _keeper_of(value) for name, value in given.items()}
        self._keepers = {name: keeper for name, keeper in keepers.items() if keeper is not None}
        super().__init__(broadcast_object, basics.rank, **{
            name: value for name, value in given.items() if name not in self._keepers})

    def __getattr__(self, name):
        keepers = self.__dict__.get("_keepers", {})
        if name in keepers:
            return keepers[name].value
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_keepers", {}):
            self._keepers[name] = _keeper_of(value)
        else:
            super().__setattr__(name, value)

    def _each(self, method):
        return [getattr(keeper, method)() for keeper in self._keepers.values()]

    def _keep(self, copies, is_sync=False):
        for keeper, copied in zip(self._keepers.values(), copies):
            keeper.keep(copied, is_sync)

    def save(self):
        """Keeps copies in memory: all of them, or none where it raises."""
        copies = self._each("copied")
        super().save()
        self._keep(copies)

    def restore(self):
        """Makes everything as it was saved last; residuals follow with sync()."""
        self._each("restore")
        super().restore()

    def sync(self):
        """Gives all ranks the state of rank 0, and saves it once all of it is here."""
        self._each("sync")
        copies = self._each("copied")
        super().sync()
        self._keep(copies, is_sync=True)

    def sync_own(self):
        self._each("sync_own")

    def reset(self):
        self._each("reset")
