"""What of a DistributedOptimizer is saved, and what may change between two steps."""

import weakref

from scalecom.compression import ScaleComCompressor, check_compression
from scalecom.process_sets import used
from scalecom.reductions import Adasum
from scalecom.torch.residuals import residuals


def check_use(compression, op, names):
    """Raises ValueError for a compression that gradients of these names cannot be reduced with."""
    check_compression(compression)
    if not isinstance(compression, ScaleComCompressor):
        return
    if op == Adasum:
        raise ValueError("compression is Compression.scalecom; it works with op Average and Sum, "
                         "not with Adasum, which needs every element")
    if names:  # Else this rank is not in the process set.
        compression.check_patterns(list(names.values()))


class OuterStep:
    """step() of one wrapper, before anything in its __dict__, which is the wrapped optimizer's too: there a
    scheduler of that one has put a step() that reduces nothing. What is assigned to the wrapper's is kept here."""

    def __init__(self, step):
        self._step = step
        step.hooked = True  # For torch, whose hooks go around the inner step().
        self._let_go()

    def hold(self, wrapper, wrapped):
        """wrapped: kept as long as the wrapper, as its schedulers refer to it weakly."""
        self._wrapper, self._wrapped = weakref.ref(wrapper, self._let_go), wrapped

    def _let_go(self, _=None):
        self._wrapper, self._wrapped, self._assigned = None, None, None

    def __get__(self, wrapper, owner=None):
        if wrapper is None:
            return self._step
        return self._assigned or self._step.__get__(wrapper, owner)

    def __set__(self, wrapper, step):
        self._assigned = step

    def __delete__(self, wrapper):
        self._assigned = None


def mix_in(mixin, optimizer):
    """An instance of the optimizer's class, with the mixin's overrides, that shares its __dict__."""
    base, step = type(optimizer), OuterStep(mixin.step)
    wrapped_class = type(base.__name__, (mixin, base), {"step": step})
    wrapper = wrapped_class.__new__(wrapped_class)
    wrapper.__dict__ = optimizer.__dict__
    step.hold(wrapper, optimizer)
    return wrapper


class ChangeMixin:
    """Overrides of an optimizer whose class it is mixed into; see DistributedOptimizer."""

    def step(self, *closure):
        """That of the wrapped optimizer, by way of its scheduler, which sees to it that it is called."""
        scheduled = vars(self).get("step")
        if scheduled is None or getattr(scheduled, "__self__", None) is self:
            return super().step(*closure)
        return scheduled(*closure)

    def add_param_group(self, param_group):
        """As torch's, after wrapping too: on all ranks alike. Parameters that named_parameters lacked are
        named by their places."""
        super().add_param_group(param_group)
        self._adopt()

    def _adopt(self):
        self._scalecom.add(self._scalecom.names.adopt(self.param_groups))

    @property
    def compression(self):
        """How gradients are compressed. It may be assigned between two steps, on every rank before the
        same one: it holds from that step on, and what is owed goes along."""
        return self._scalecom.compression

    @compression.setter
    def compression(self, compression):
        settings = self._scalecom
        check_use(compression, settings.op, settings.names)
        if settings.is_reducing():
            raise AssertionError("compression was assigned between backward() and step(), while gradients "
                                 "are being reduced; call step() or synchronize() first")
        settings.compression = compression


class StateMixin:
    """The same."""

    def state_dict(self):
        """The optimizer's state, and under "scalecom" this rank's residuals and steps."""
        saved = super().state_dict()
        names = set(self._scalecom.names.values())
        with used(self._scalecom.process_set):
            saved["scalecom"] = residuals.model_state(names)
        return saved

    def load_state_dict(self, state_dict):
        """The other way round; what has no "scalecom", as of a plain optimizer, leaves residuals as they
        are. ValueError, and nothing is changed, for residuals of another model or broken ones."""
        state_dict = dict(state_dict)
        settings = self._scalecom
        shapes = settings.names.shapes()
        with used(settings.process_set):
            load = None
            if "scalecom" in state_dict:
                saved = state_dict.pop("scalecom")
                if shapes:  # Else this rank is not in the process set.
                    load = residuals.prepare_model_state(saved, shapes)
            super().load_state_dict(state_dict)
            if load is not None:
                load()
