"""The residuals of this rank: training state that belongs into a checkpoint; and their health.

What is read and loaded are arrays of a framework: Residuals knows how to make them.
"""

import ctypes
import logging
import math
import operator
import reprlib
from collections.abc import Mapping

from scalecom import _library, basics
from scalecom._library import lib, own_name
from scalecom.process_sets import current, used

_PREFIX = "allreduce."
_NAME_BYTES_MAX = 4096 - len(_PREFIX)


def infos():
    """{tensor name: {"name", "shape", "step", "beta"}} of this rank."""
    return {entry["name"].removeprefix(_PREFIX): entry
            for entry in _library.read_json(lib.scalecom_residuals)}


def compression_steps():
    """{tensor name: next step} of this rank; leader and warm-up follow from it."""
    return {name: entry["step"] for name, entry in infos().items()}


def compression_betas():
    """{tensor name: beta} of this rank: residual / beta is what it owes. 0 where it is not known."""
    return {name: entry["beta"] for name, entry in infos().items()}


def compression_stats():
    """{tensor name: figures} of the compressed tensors, each of its last sampled step.

    A dictionary has step, elements, rate (chunk length), halvings (by the guard), sampled_chunks,
    relative_error, mean_relative_error, residual_to_gradient, mean_residual_to_gradient (this
    rank's, and the ranks' mean), hamming_distance, chunk_overlap and byte_true_rate; what they mean:
    docs/algorithms.md. Empty until SCALECOM_HEALTH_STEPS steps are over. Any thread may call it, at
    any time.
    """
    return {entry.pop("name").removeprefix(_PREFIX):
            {name: math.inf if value is None else value for name, value in entry.items()}
            for entry in _library.read_json(lib.scalecom_compression_stats)}


def check_parts(saved, what):
    """Raises ValueError unless it is made as a model_state() is."""
    if not isinstance(saved, Mapping) or "residuals" not in saved or "steps" not in saved:
        raise ValueError(f"{what} is {reprlib.repr(saved)}; a dict with 'residuals' and 'steps' is needed, as it was "
                         "saved (under \"scalecom\" in an optimizer's state_dict())")
    for part in ("residuals", "steps", "betas"):
        if not isinstance(saved.get(part, {}), Mapping):
            raise ValueError(f"{part!r} of {what} is {reprlib.repr(saved[part])}; a dict by tensor name is needed")


def _check_name(name):
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode()) > _NAME_BYTES_MAX:
        raise ValueError(f"a saved residual has the name {reprlib.repr(name)}; a tensor's name is a text of 1 to "
                         f"{_NAME_BYTES_MAX} bytes without a zero byte")


def _checked_step(name, step):
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if not 0 <= number < 2**62:
        raise ValueError(f"the saved step of {name} is {reprlib.repr(step)}; it must be a whole number of 0 or more")
    return number


def _checked_beta(name, beta):
    try:
        number = float(beta)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"the saved beta of {name} is {reprlib.repr(beta)}; allowed are numbers above 0 and at "
                         "most 1, and 0 where it is not known")
    return number


class Residuals:
    """This rank's residuals as a framework's arrays.

    zeros(shape): a new one, float32 in the host's memory. is_array(value): whether it is an array of
    floating-point numbers. to_host(array): the same as one of zeros(), which may be itself. to_double(array): as
    float64. count_nonfinite(array): of NaN and Inf in one of the host's. address_of(array): of its first element.
    """

    def __init__(self, zeros, is_array, to_host, to_double, count_nonfinite, address_of):
        self.zeros, self._is_array = zeros, is_array
        self._to_host, self._to_double = to_host, to_double
        self._count_nonfinite, self._address_of = count_nonfinite, address_of

    def state(self):
        """{tensor name: residual} of this rank, in the tensors' shapes."""
        state = {}
        for name, entry in infos().items():
            values = state[name] = self.zeros(entry["shape"])
            _library.check(lib.scalecom_residual_get(
                entry["name"].encode(), self._address_of(values), math.prod(entry["shape"])))
        return state

    def load(self, state, steps=None, betas=None):
        """Replaces this rank's residuals by those of a state(); others keep theirs.

        Call it on every rank, with no compressed tensor in flight. `steps`: compression_steps() of the
        same moment; where a name is missing, its step count goes on, from 0 for a new name. The ranks'
        counts must agree. `betas`: compression_betas() of the same moment; where a name is missing, the
        beta that it goes on with is taken for that of its residual. ValueError for what is no residual, is
        not finite, or has another shape than the session's tensor of this name: none is replaced then.
        """
        saved = {"residuals": state, "steps": {} if steps is None else steps, "betas": {} if betas is None else betas}
        check_parts(saved, "what is to be loaded")
        current = infos()
        self._restore(self._checked(
            saved, {name: entry["step"] for name, entry in current.items()},
            lambda name, shape: tuple(current[name]["shape"]) if name in current else shape,
            "the session's tensor has"))

    def _checked(self, saved, steps, shape_of, owner):
        """(name, shape, residual in the host's memory, step, beta) of each. steps: where none is saved. shape_of(name,
        the saved shape): the right one. owner: who has it, in words."""
        saved_steps, saved_betas = ({name: check(name, value) for name, value in saved.get(part, {}).items()}
                                    for part, check in (("steps", _checked_step), ("betas", _checked_beta)))
        checked = []
        for name, residual in saved["residuals"].items():
            _check_name(name)
            values = self._checked_values(name, residual)
            shape = tuple(residual.shape)
            if shape_of(name, shape) != shape:
                raise ValueError(f"the saved residual of {name} has shape {shape}; {owner} "
                                 f"{shape_of(name, shape)}: is this the checkpoint of another model?")
            checked.append((name, shape, values, saved_steps.get(name, steps.get(name, 0)),
                            saved_betas.get(name, 0.0)))
        return checked

    def _checked_values(self, name, residual):
        if not self._is_array(residual):
            dtype = getattr(residual, "dtype", None)
            raise ValueError(f"the saved residual of {name} is "
                             f"{reprlib.repr(residual) if dtype is None else f'of dtype {dtype}'}; an array of "
                             "floating-point numbers is needed, of this framework")
        values = self._to_host(residual)
        bad = self._count_nonfinite(values)
        if bad:
            raise ValueError(f"the saved residual of {name} has {bad} values of {math.prod(residual.shape)} that are "
                             "NaN or Inf, and would never be delivered; load another checkpoint, or leave out what "
                             "it has of residuals")
        return values

    def _restore(self, checked):
        for name, shape, values, step, beta in checked:
            current().residual_owners.pop(name, None)  # It is whose comes next.
            # Without values it is of zeros.
            address = None if values is None else self._address_of(values)
            _library.check(lib.scalecom_residual_restore(
                (_PREFIX + name).encode(), (ctypes.c_int64 * len(shape))(*shape), len(shape), address, step, beta))

    def model_state(self, names):
        """{"residuals", "steps", "betas", "rank", "size"} of those names, for a checkpoint."""
        parts = {"residuals": self.state(), "steps": compression_steps(),
                 "betas": compression_betas()}
        return {**{part: {name: value for name, value in of_all.items() if name in names}
                   for part, of_all in parts.items()}, "rank": basics.rank(), "size": basics.size()}

    def load_model_state(self, saved, shapes):
        """Makes residuals and steps of the names in `shapes` those of a model_state(): a name that it
        lacks starts anew. Where it was saved by another rank, or one of another number of ranks, residuals
        start with zero, and a warning says so. ValueError, and nothing is changed, where it is not a model's
        of these shapes, or not finite."""
        self.prepare_model_state(saved, shapes)()

    def prepare_model_state(self, saved, shapes):
        """load_model_state() in two parts: raises its errors, and returns what then does it."""
        check_parts(saved, "the saved state")
        checked = self._checked(saved, {}, lambda name, _: shapes.get(name, "unknown here"), "the parameter's is")
        fresh = [(name, tuple(entry["shape"]), None, _checked_step(name, saved["steps"].get(name, 0)), 0.0)
                 for name, entry in infos().items() if name in shapes and name not in saved["residuals"]]
        place = saved.get("rank", basics.rank()), saved.get("size", basics.size())
        here = basics.rank(), basics.size()
        is_others = bool(checked) and place != here
        if is_others:
            checked = [(name, shape, None, step, beta) for name, shape, _, step, beta in checked]

        def load():
            if is_others:
                logging.getLogger("scalecom").warning(
                    "the saved residuals are those of rank %s of %s; rank %d of %d begins with zero, and what was "
                    "owed is lost: let each rank save and load its own, and fold those of another number of ranks "
                    "(docs/howto/checkpoints.md)", *place, *here)
            self._restore(fresh + checked)

        return load

    def share_steps(self, shapes, process_set, root_rank, broadcast_object):
        """Makes the residuals of the names in `shapes` go on at root_rank's steps: a rank whose own are of other
        steps, as where root_rank alone has loaded a checkpoint, begins with zero, and a warning says so. All ranks
        call it; a rank outside of process_set has no shapes. broadcast_object: the framework's."""
        with used(process_set if shapes else None):
            own = self.model_state(shapes) if shapes else None
        roots = broadcast_object(own and {**own, "residuals": {
            name: tuple(value.shape) for name, value in own["residuals"].items()}}, root_rank,
            own_name("steps of the residuals (a broadcast of the optimizer)"))
        if not own or not roots or not (own["residuals"] or roots["residuals"]):
            return
        if own["steps"] != roots["steps"]:
            logging.getLogger("scalecom").warning(
                "the optimizer goes on at the steps of rank %d; residuals of rank %d are of others, so they begin with "
                "zero, and what was owed is lost: let each rank load a file of its own "
                "(docs/howto/checkpoints.md)", root_rank, basics.rank())
            own = {"residuals": {name: self.zeros(shape) for name, shape in roots["residuals"].items()},
                   "steps": roots["steps"], "betas": roots["betas"]}
        # Also where they are the same: the root may have restored them, which begins to count anew.
        with used(process_set):
            self.load_model_state(own, shapes)

    def fold(self, states):
        """The state to load on every rank of a job of another size that averages (op=Average): `states` are
        the model_state()s that all ranks of the former job saved, one a rank.

        `states` are looked at one by one, and may be a generator. It holds the mean m of their
        residuals. What the former n ranks still owed the average, the sum of m_r over n beta, is
        what any number of ranks that hold m owe it: nothing is lost. N ranks that sum (op=Sum) owe
        as much with m n / N. Raises ValueError where the states are not of one model and moment.
        """
        first, totals, count, places = None, {}, 0, []
        for saved in states:
            check_parts(saved, f"states[{count}]")
            for name, value in saved["residuals"].items():
                self._checked_values(f"{name} in states[{count}]", value)
            shapes = {name: tuple(value.shape) for name, value in saved["residuals"].items()}
            if first is None:
                first, first_shapes = {**saved, "residuals": {}}, shapes
            for is_same, what in ((shapes == first_shapes, "has other tensors than"),
                                  (saved["steps"] == first["steps"], "was saved at other steps than"),
                                  (saved.get("betas") == first.get("betas"), "was saved with other betas than")):
                if not is_same:
                    raise ValueError(f"states[{count}] {what} states[0]; give what the ranks of one job saved "
                                     "at one moment")
            totals = {name: totals.get(name, 0.0) + self._to_double(value)
                      for name, value in saved["residuals"].items()}
            places.append((saved.get("rank"), saved.get("size")))
            count += 1
        if first is None:
            raise ValueError("states is empty; give what each rank of the former job saved")
        if set(places) != {(None, None)} and sorted(places, key=str) != sorted(
                ((rank, count) for rank in range(count)), key=str):
            raise ValueError("states are those of the ranks " +
                             ", ".join(f"{rank} of {size}" for rank, size in places) +
                             "; give one of each rank of one job")
        folded = {**first, "residuals": {name: self._to_host(total / count) for name, total in totals.items()}}
        return {part: value for part, value in folded.items() if part not in ("rank", "size")}


class KeptResiduals:
    """What an elastic state has of a model's residuals: they end with a session, and sync() takes them
    up where it is new. broadcast_object and allgather_object: the framework's."""

    def __init__(self, residuals, broadcast_object, allgather_object):
        self._residuals = residuals
        self._broadcast_object = broadcast_object
        self._allgather_object = allgather_object

    def save(self, model_state):
        """Keeps a model_state() of this session."""
        self._saved = model_state
        self._size = basics.size()

    def sync(self, names, is_average):
        """Takes up this rank's residuals where the session has none of these names.

        n former ranks owed the average the sum of m_r over n beta. In a job of N ranks the same is
        owed by residuals m_r N / n; a sum is owed the sum of m_r over beta, whatever n is. Newcomers
        have none. What lost ranks owed is lost with them.
        """
        has_session_its_own = bool(names & set(compression_steps()))
        facts = None
        if basics.rank() == 0 and not has_session_its_own:
            facts = {**self._saved, "size": self._size, "residuals": {
                name: tuple(value.shape) for name, value in self._saved["residuals"].items()}}
        facts = self._broadcast_object(facts, 0, own_name("residuals of the elastic state"))
        if not facts or not facts["residuals"]:
            return
        # Of another commit than rank 0's they would be delivered twice, or not at all.
        is_same = self._saved["steps"] == facts["steps"] and self._size == facts["size"]
        kept = sum(self._allgather_object(
            is_same, own_name("residuals of the elastic state that are kept")))
        if basics.rank() == 0 and kept < facts["size"]:
            logging.getLogger("scalecom").warning(
                "the residuals of %d of %d ranks are lost with them: what they had not delivered "
                "yet", facts["size"] - kept, facts["size"])
        scale = basics.size() / facts["size"] if is_average else 1.0
        own = {name: self._saved["residuals"][name] * scale if is_same else self._residuals.zeros(shape)
               for name, shape in facts["residuals"].items()}
        self._residuals.load(own, facts["steps"], facts["betas"])
