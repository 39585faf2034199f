"""The residuals of this rank: training state that belongs into a checkpoint; and their health.

What is read and loaded are arrays of a framework: Residuals knows how to make them.
"""

import ctypes
import logging
import math

from scalecom import _library, basics
from scalecom._library import lib

_PREFIX = "allreduce."


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


def check_residuals(residuals, shapes):
    """Raises ValueError unless every residual has the shape that `shapes` gives its name."""
    for name, residual in residuals.items():
        if shapes.get(name) != tuple(residual.shape):
            raise ValueError(f"the saved residual of {name} has shape {tuple(residual.shape)}; "
                             f"the parameter's is {shapes.get(name, 'unknown here')}: is this "
                             "the checkpoint of another model?")


class Residuals:
    """This rank's residuals as a framework's arrays.

    zeros(shape): a new one, float32 in the host's memory. to_host(array): the same for an array, which
    may be itself. to_double(array): as float64. address_of(array): of its first element.
    """

    def __init__(self, zeros, to_host, to_double, address_of):
        self.zeros, self._to_host, self._to_double = zeros, to_host, to_double
        self._address_of = address_of

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
        beta that it goes on with is taken for that of its residual.
        """
        current = compression_steps()
        for name, residual in state.items():
            values = self._to_host(residual)
            shape = (ctypes.c_int64 * len(values.shape))(*values.shape)
            step = (steps or {}).get(name, current.get(name, 0))
            _library.check(lib.scalecom_residual_restore(
                (_PREFIX + name).encode(), shape, len(values.shape), self._address_of(values), step,
                (betas or {}).get(name, 0.0)))

    def model_state(self, names):
        """{"residuals", "steps", "betas"} of those names, for a checkpoint."""
        parts = {"residuals": self.state(), "steps": compression_steps(),
                 "betas": compression_betas()}
        return {part: {name: value for name, value in of_all.items() if name in names}
                for part, of_all in parts.items()}

    def load_model_state(self, saved, shapes):
        """Makes residuals and steps of the names in `shapes` those of a model_state(): a name that it
        lacks starts anew. Nothing is changed where check_residuals() refuses."""
        check_residuals(saved["residuals"], shapes)
        fresh = {name: self.zeros(entry["shape"]) for name, entry in infos().items()
                 if name in shapes and name not in saved["residuals"]}
        self.load({**fresh, **saved["residuals"]},
                  {**dict.fromkeys(fresh, 0), **saved["steps"]}, saved.get("betas"))

    def fold(self, states):
        """The state to load on every rank of a job of another size that averages (op=Average): `states` are
        the model_state()s that all ranks of the former job saved, one a rank.

        `states` are looked at one by one, and may be a generator. It holds the mean m of their residuals. What the former n ranks still owed the average, the sum of
        m_r over n beta, is what any number of ranks that hold m owe it: nothing is lost. N ranks that
        sum (op=Sum) owe as much with m n / N. Raises ValueError where the states are not of one model and
        moment.
        """
        first, totals, count = None, {}, 0
        for saved in states:
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
            count += 1
        if first is None:
            raise ValueError("states is empty; give what each rank of the former job saved")
        return {**first, "residuals": {name: self._to_host(total / count) for name, total in totals.items()}}


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
        facts = self._broadcast_object(facts, 0, "elastic.residuals")
        if not facts or not facts["residuals"]:
            return
        # Of another commit than rank 0's they would be delivered twice, or not at all.
        is_same = self._saved["steps"] == facts["steps"] and self._size == facts["size"]
        kept = sum(self._allgather_object(is_same, "elastic.kept"))
        if basics.rank() == 0 and kept < facts["size"]:
            logging.getLogger("scalecom").warning(
                "the residuals of %d of %d ranks are lost with them: what they had not delivered "
                "yet", facts["size"] - kept, facts["size"])
        scale = basics.size() / facts["size"] if is_average else 1.0
        own = {name: self._saved["residuals"][name] * scale if is_same else self._residuals.zeros(shape)
               for name, shape in facts["residuals"].items()}
        self._residuals.load(own, facts["steps"], facts["betas"])
