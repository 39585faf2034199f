"""DistributedOptimizer with op Average or Sum: gradients are reduced while the backward pass goes on."""

import contextlib
import sys
import threading
import warnings

import torch

from scalecom import _library
from scalecom.compression import gradient_options
from scalecom.exceptions import HorovodInternalError
from scalecom.name_owners import claim, end_garbage, refuse_name
from scalecom.process_sets import era, global_process_set, used
from scalecom.reductions import Max
from scalecom.torch import mpi_ops, sparse_ops, submit
from scalecom.torch.compression import Compression
from scalecom.torch.eager import eager
from scalecom.torch.optimizer_state import ChangeMixin, StateMixin
from scalecom.torch.parameters import Hooks, check_passes, refuse_pass, takes_part

# Gradients are submitted together as soon as they have so many bytes, or are so many: a submit costs
# several times what one tensor more in it does, and less than a burst's time on any network is lost.
_BURST_BYTES = 1 << 20
_BURST_TENSORS = 64

_OTHER_NAMES = ("DistributedOptimizer(optimizer, named_parameters=[(f\"critic.{name}\", parameter) for name, "
                "parameter in model.named_parameters()])")


class _Gradient:
    """A parameter's gradient on its way through a step."""

    __slots__ = ("parameter", "name", "full_name", "byte_count", "settings", "priority",
                 "passes_left", "group", "source", "version", "wire", "has_ended", "reduction", "context", "agreed_in",
                 "sparse_dims", "make_sparse", "sparse_after", "__weakref__")

    def __init__(self, parameter, name, priority, settings):
        self.parameter = parameter
        self.name = name
        self.full_name = submit.full_name("allreduce", name)
        self.byte_count = parameter.numel() * parameter.element_size()
        self.priority = priority
        self.settings = settings
        self.passes_left = settings.passes
        self.group = None  # The gradients that start when all of them are accumulated, if not alone.
        self.source = self.version = None  # The gradient as its reduction began; torch counts its changes.
        self.wire = None  # What travels, while it is being reduced.
        self.has_ended = False  # It has been reduced, while others of the step have not been waited for.
        self.reduction = None
        self.context = None
        self.agreed_in = None  # The era in which the ranks have agreed on the next.
        self.sparse_dims = 0  # As all ranks reduce it; 0 is dense.
        self.make_sparse = None  # Makes the reduced one from the ticket.
        self.sparse_after = None  # Sparse dimensions of one that is dense only as it travels.

    @eager
    def count_pass(self, _):
        """The backward pass has accumulated it: the parameter's hook."""
        if self.passes_left <= 0:
            refuse_pass(self.name, self.settings.passes)
        self.passes_left -= 1
        if self.group is None:
            if self.passes_left == 0:
                self.start()
            return
        trained = [gradient for gradient in self.group if gradient.parameter.requires_grad]
        if all(gradient.passes_left == 0 for gradient in trained):
            for gradient in trained:
                gradient.start()
            self.settings.submit()

    def takes_part(self):
        return takes_part(self.parameter)

    def kind(self):
        """As this rank has it: its sparse dimensions, whether it is dense, neither where there is none;
        whether it takes part in steps, or is left out."""
        gradient = self.parameter.grad
        part = int(self.takes_part())
        if gradient is None:
            return 0, 0, part, 1 - part
        return (gradient.sparse_dim(), 0, 1, 0) if gradient.is_sparse else (0, 1, 1, 0)

    def _ready(self):
        """The parameter's gradient, as all ranks reduce it from here on."""
        parameter, dims = self.parameter, self.sparse_dims
        gradient = parameter.grad
        if gradient is None:
            # Others may have one: every rank takes part in every parameter.
            gradient = self._zeros()
        if gradient.is_sparse and gradient.sparse_dim() != dims:
            self.sparse_after = gradient.sparse_dim() if self.settings.sparse_as_dense else None
            gradient = gradient.to_dense()
        if dims and not gradient.is_sparse:
            gradient = gradient.to_sparse(dims)
        if not gradient.is_sparse:
            gradient = submit.contiguous(gradient)
        if gradient is not parameter.grad:
            parameter.grad = gradient
        return gradient

    def _zeros(self):
        parameter, dims = self.parameter.detach(), self.sparse_dims
        if dims == 0:
            return torch.zeros_like(parameter)
        return torch.sparse_coo_tensor(
            torch.empty(dims, 0, dtype=torch.int64, device=parameter.device),
            parameter.new_empty(0, *parameter.shape[dims:]), parameter.shape, check_invariants=False)

    def start(self):
        settings = self.settings
        gradient = self.parameter.grad
        if gradient is not None and gradient.is_sparse and not settings.has_agreed(self):
            settings.waiting.append(self)
            return
        wire = self.source = self._ready()
        if wire.is_sparse:
            self._start_sparse(wire)
            return
        options = None
        if settings.compression is not Compression.none:
            options = gradient_options(settings.compression, self.name, self.parameter)
            if options is not None:
                claim(settings.process_set, self.name, self.parameter, self, _OTHER_NAMES)
            wire, self.context = settings.compression.compress(wire)
        self.version = self.source._version
        self.reduction = submit.reduction_of(settings.op, settings.prescale_factor,
                                             settings.postscale_factor, options, self.priority)
        self._take_name()
        settings.collect(self, wire)

    def _take_name(self):
        """Until forget(). The optimizer that has it may have gone in the middle of a step."""
        reducing = self.settings.reducing
        if reducing.setdefault(self.name, self) is self:
            return
        end_garbage()
        other = reducing.get(self.name)
        if other is not None and other.settings.is_gone:
            other.settings.end_step()
        if reducing.setdefault(self.name, self) is not self:
            refuse_name(self.name, _OTHER_NAMES)

    def let_name_go(self):
        if self.settings.reducing.get(self.name) is self:
            del self.settings.reducing[self.name]

    def _start_sparse(self, wire):
        settings = self.settings
        self._take_name()
        try:
            with used(settings.process_set):
                # Scales are left out: of an average they cancel.
                ticket, self.make_sparse = sparse_ops.submit_sparse(
                    submit.full_name("sparse_allreduce", self.name), wire, settings.op)
        except BaseException:
            self.let_name_go()
            raise
        self.wire, self.version = wire, wire._version
        settings.pending.append((ticket, [self]))

    def finish(self, ticket):
        """After the wait for the ticket of its submit."""
        if self.parameter.grad is not self.source or self.source._version != self.version:
            raise AssertionError(
                f"the gradient of {self.name} was changed between backward() and step(), while it was being reduced: "
                "before clip_grad_norm_(), GradScaler.unscale_() or the like call optimizer.synchronize(), and then "
                "step() inside optimizer.skip_synchronize()")
        if self.make_sparse is not None:
            self.parameter.grad = self.make_sparse(ticket)
        elif self.settings.compression is not Compression.none:
            reduced = self.settings.compression.decompress(self.wire, self.context)
            if reduced is not self.parameter.grad:
                self.parameter.grad.copy_(reduced)
        if self.sparse_after is not None:
            self.parameter.grad = self.parameter.grad.to_sparse(self.sparse_after)

    def end(self):
        self.forget()
        self.has_ended = True

    def forget(self):
        self.has_ended = False
        self.let_name_go()
        self.passes_left = self.settings.passes
        self.source = self.wire = self.context = self.make_sparse = self.sparse_after = None


class GradientSettings(Hooks):
    """What the wrapped optimizer was asked for, and its work in progress."""

    def __init__(self, names, compression, op, passes, predivide_factor, sparse_as_dense,
                 process_set):
        super().__init__(names)
        self.compression = compression
        self.op = op
        self.passes = passes
        self.prescale_factor = 1.0 / predivide_factor
        self.postscale_factor = float(predivide_factor)
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set
        self.reducing = (process_set or global_process_set).reducing
        # What the forward pass needs first has the highest priority, and all are below what is
        # submitted beside the gradients: somebody may wait for that.
        self.gradients = []
        self.add(names)
        self.waiting = []  # Sparse gradients that start when the ranks have agreed on them.
        # Hooks run in autograd's thread of their device: of a model on a CPU and a GPU, in two.
        self.lock = threading.Lock()
        self.collected = []  # Gradients that are submitted next, of one device.
        self.collected_bytes = 0
        self.stream = None  # On a CUDA device: in whose order they are ready.
        self.pending = []  # Pairs of a submit's ticket and gradients, in the order of submits.
        self.errors = []  # Of those that have ended.
        self.is_gone = False  # Its optimizer is.
        self.is_synchronized = False
        self.should_synchronize = True
        self.grouped = []  # Gradients that may have to wait for others.

    def add(self, parameters):
        """These, which `names` has, are reduced from now on."""
        for parameter in parameters:
            gradient = _Gradient(parameter, self.names[parameter], -1 - len(self.gradients), self)
            self.gradients.append(gradient)
            self.hook(parameter, gradient.count_pass)

    def join(self, groups):
        """The gradients of each of these lists of parameters start together."""
        gradients = {gradient.parameter: gradient for gradient in self.gradients}
        for group in groups:
            members = [gradients[parameter] for parameter in group if parameter in gradients]
            self.grouped += members
            for gradient in members:
                gradient.group = members

    def has_agreed(self, gradient):
        """Whether the ranks know if it is sparse."""
        return self.sparse_as_dense or gradient.agreed_in is self._era()

    def _era(self):
        return era(self.process_set or global_process_set)

    def agree(self):
        """In the first step, of a session, after a join and of what is unfrozen or new, the ranks find out
        which gradients are sparse: one that has none does not see it; dense on any rank is dense on all. A
        blocking reduction of four numbers for each."""
        now = self._era()
        if self.sparse_as_dense or all(gradient.agreed_in is now or not gradient.takes_part()
                                       for gradient in self.gradients):
            return
        kinds = torch.tensor([gradient.kind() for gradient in self.gradients], dtype=torch.int32,
                             device="cpu")
        name = _library.own_name("question which gradients are sparse (in a first step())",
                                 self.gradients[0].name)
        try:
            agreed = mpi_ops.allreduce(kinds, name=name, op=Max, process_set=self.process_set).tolist()
        except HorovodInternalError as error:
            if error.code == _library.MISMATCH:
                raise self._other_parameters() from error
            raise
        torn = [gradient.name for gradient, (_, _, part, left_out) in zip(self.gradients, agreed)
                if part and left_out]
        if torn:
            raise HorovodInternalError(
                f"{', '.join(torn[:5])}: trained on some ranks and frozen (requires_grad is False) on "
                "others; freeze and unfreeze a parameter on all ranks before the same step",
                code=_library.MISMATCH)
        for gradient, (sparse_dims, is_dense, part, _) in zip(self.gradients, agreed):
            if part and gradient.agreed_in is not now:
                gradient.sparse_dims = 0 if is_dense else sparse_dims
                gradient.agreed_in = now

    def _other_parameters(self):
        names = [gradient.name for gradient in self.gradients]
        return HorovodInternalError(
            f"the optimizers of the ranks have different numbers of parameters, {len(names)} on this rank "
            f"({', '.join(names if len(names) < 5 else [*names[:3], f'... {names[-1]}'])}); make the same model and optimizer on every rank",
            code=_library.MISMATCH)

    def start_all(self):
        """Starts every gradient that the backward pass has not started."""
        self.submit()
        self.agree()
        self.waiting.clear()
        for gradient in self.gradients:
            if gradient.wire is None and gradient.takes_part() and not gradient.has_ended:
                gradient.start()
        self.submit()

    def collect(self, gradient, wire):
        """Submits a dense gradient with those that come next, on its device and stream."""
        stream = submit.current_stream(wire)
        with self.lock:
            is_behind = stream == self.stream  # Torch's streams know no !=.
            if not is_behind:
                self._submit_collected()
                self.stream = stream
            gradient.wire = wire
            self.collected.append(gradient)
            self.collected_bytes += gradient.byte_count
            if self.collected_bytes >= _BURST_BYTES or len(self.collected) >= _BURST_TENSORS:
                self._submit_collected()

    def submit(self):
        """Submits what was collected."""
        with self.lock:
            self._submit_collected()

    def _submit_collected(self):
        burst, self.collected, self.collected_bytes = self.collected, [], 0
        if burst:
            with submit.on_stream(self.stream):
                self._submit(burst)

    def _submit(self, burst):
        try:
            with used(self.process_set):
                ticket = submit.all_reduce_burst([gradient.wire for gradient in burst],
                                                 [gradient.full_name for gradient in burst],
                                                 [gradient.reduction for gradient in burst])
                if ticket is not None:
                    self.pending.append((ticket, burst))
                    return
                while burst:  # What cannot be read as it is tells why alone.
                    gradient = burst[0]
                    ticket = submit.all_reduce(gradient.wire, gradient.wire, gradient.full_name,
                                               gradient.reduction)
                    self.pending.append((ticket, [gradient]))
                    burst = burst[1:]
        except BaseException:
            for gradient in burst:
                gradient.wire = gradient.context = None  # The next synchronize() tries it again.
                gradient.let_name_go()
            raise

    def finish(self):
        """Waits until every gradient that was submitted is the reduced one."""
        while self.pending:
            ticket, burst = self.pending[0]
            try:
                ticket.wait()  # Who is interrupted, here or below, may call again.
                while burst:
                    burst[0].finish(ticket)
                    burst.pop(0).end()
            except (HorovodInternalError, AssertionError) as error:
                self.errors.append(error)
                for gradient in burst:
                    gradient.end()
            del self.pending[0]
        errors, self.errors = self.errors, []
        for gradient in self.gradients:
            gradient.has_ended = False
        if errors:
            raise errors[0]

    def end(self):
        """Its optimizer is gone. What is on its way stays so, in `reducing`: it may need what other ranks have yet
        to submit."""
        self.release()
        self.is_gone = True
        if not self.is_reducing():
            self.forget()
            self._let_gradients_go()

    def end_step(self):
        """After end(), where its names or parameters are another's now, on all ranks alike."""
        for part in (self.start_all, self.finish):
            with contextlib.suppress(Exception):  # Nobody wants these gradients.
                part()
        self.forget()
        self._let_gradients_go()

    def _let_gradients_go(self):
        """They know this too: the model would stay until the garbage collector comes."""
        for gradient in self.gradients:
            gradient.group = None
        self.gradients, self.grouped = [], []

    def forget(self):
        """Nothing is on its way any more."""
        self.pending.clear()
        self.errors.clear()
        self.waiting.clear()
        self.collected.clear()
        self.collected_bytes = 0
        for gradient in self.gradients:
            gradient.forget()
            gradient.agreed_in, gradient.sparse_dims = None, 0  # Who has come does not know it.

    def is_reducing(self):
        """Gradients are on their way, or wait for others of their group."""
        return bool(self.pending or self.collected or self.waiting) or any(
            gradient.passes_left == 0 for gradient in self.grouped)

    def named_parameters(self):
        return [(name, parameter) for parameter, name in self.names.items()
                if parameter.requires_grad]


def _is_within_scaler():
    """Whether step() is called by a GradScaler of torch's, which tells the optimizer nothing."""
    frame = sys._getframe(2)
    for _ in range(4):  # Schedulers wrap step().
        if frame is None:
            break
        if frame.f_globals.get("__name__", "").endswith("amp.grad_scaler"):
            return frame.f_locals["self"].is_enabled()
        frame = frame.f_back
    return False


class GradientMixin(StateMixin, ChangeMixin):
    """Overrides of an optimizer whose class it is mixed into; see DistributedOptimizer."""

    @eager
    def synchronize(self):
        """Waits until every gradient is the reduced one. step() does it, unless inside
        skip_synchronize(); call it yourself to look at the gradients before step().

        After a HorovodInternalError no gradient is in flight; those that failed are undefined. Where
        it says that the ranks differ in their gradients, what they have submitted stays so.
        """
        settings = self._scalecom
        settings.check_hooked()
        self._adopt()  # What has come past add_param_group().
        try:
            settings.start_all()
        except HorovodInternalError:
            settings.forget()
            raise
        settings.finish()
        settings.is_synchronized = True

    @contextlib.contextmanager
    def skip_synchronize(self):
        """step() inside does not wait, because synchronize() was called before."""
        self._scalecom.should_synchronize = False
        try:
            yield
        finally:
            self._scalecom.should_synchronize = True

    def forget_step(self):
        """Gives up a step half-way, whose session is over: nothing of it is in flight any more."""
        self._scalecom.forget()
        self._scalecom.is_synchronized = False

    def set_backward_passes_per_step(self, passes):
        check_passes(passes)
        self._scalecom.passes = passes
        for gradient in self._scalecom.gradients:
            gradient.passes_left = passes

    @eager
    def step(self, closure=None):
        """Waits for the reduced gradients, then updates the parameters. A closure's backward passes
        are reduced too, each before the optimizer sees its gradients; each has to give every rank a
        gradient of at least one parameter."""
        settings = self._scalecom
        settings.check_hooked()
        if closure is None or settings.is_reducing():
            self._synchronize_for_step()
        settings.is_synchronized = False
        if closure is None:
            return super().step()

        def reduced_closure():
            with torch.enable_grad():
                loss = closure()
            if settings.is_reducing():
                self.synchronize()
                settings.is_synchronized = False
            return loss

        return super().step(reduced_closure)

    def _synchronize_for_step(self):
        settings = self._scalecom
        if not settings.should_synchronize:
            return
        if settings.is_reducing() and _is_within_scaler():
            raise AssertionError(
                "GradScaler.step() has unscaled gradients that are being reduced, and each rank looks for Inf in its "
                "own: call optimizer.synchronize() first, and scaler.step(optimizer) inside "
                "optimizer.skip_synchronize()")
        if settings.is_synchronized:
            # Scripts may filter it by how it begins in Horovod.
            warnings.warn("optimizer.step() called without optimizer.skip_synchronize() context after "
                          "optimizer.synchronize(): the gradients are reduced twice", stacklevel=3)
        self.synchronize()

    def zero_grad(self, *args, **kwargs):
        if self._scalecom.is_reducing():
            raise AssertionError("zero_grad() was called between backward() and step(), while "
                                 "gradients are being reduced; call step() or synchronize() first")
        return super().zero_grad(*args, **kwargs)
