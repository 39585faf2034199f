"""Process sets: ranks that run collectives together. This version has one, of all ranks."""

from scalecom import basics


class ProcessSet:
    """Some of the job's ranks.

    process_set_id: 0 for global_process_set, None for a set that is not in use. Raises ValueError
    unless `ranks` are different whole numbers, 0 or more.
    """

    def __init__(self, ranks):
        if isinstance(ranks, (str, bytes)) or not hasattr(ranks, "__iter__"):
            raise ValueError(f"ranks is {type(ranks).__name__}; a list of ranks is needed")
        ranks = list(ranks)
        if not all(type(rank) is int and rank >= 0 for rank in ranks) or (
                len(set(ranks)) < len(ranks)):
            raise ValueError(f"ranks is {ranks}; allowed are whole numbers, 0 or more, each once")
        self._ranks = sorted(ranks)
        self.process_set_id = None

    @property
    def ranks(self):
        """In rising order; of the global set, none before init()."""
        if self.process_set_id == 0:
            return list(range(basics.size())) if basics.is_initialized() else []
        return list(self._ranks)

    def size(self):
        """Number of its ranks; None where it is not in use. ValueError before init()."""
        return None if self.process_set_id is None else basics.size()

    def rank(self):
        """This process's place in it; None where it is not in use. ValueError before init()."""
        return None if self.process_set_id is None else basics.rank()

    def included(self):
        """Whether this process is in it; None where it is not in use. ValueError before init()."""
        return None if self.process_set_id is None else basics.rank() in self.ranks

    def __str__(self):
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"

    __repr__ = __str__


global_process_set = ProcessSet([])
global_process_set.process_set_id = 0


def add_process_set(process_set):
    """For a ProcessSet or a list of ranks: raises ValueError where it is the global set's or names
    ranks that are not there, else NotImplementedError."""
    ranks = (process_set if isinstance(process_set, ProcessSet) else ProcessSet(process_set)).ranks
    if ranks == global_process_set.ranks:
        raise ValueError(f"a process set of the ranks {ranks} exists: use global_process_set")
    if not set(ranks) <= set(global_process_set.ranks):
        raise ValueError(f"the process set has the ranks {ranks}; the job has 0 to "
                         f"{basics.size() - 1}")
    raise NotImplementedError("this version of scalecom has the global process set only; start a "
                              "job of its own for these ranks")


def remove_process_set(process_set):
    """False for the global set, which stays; ValueError for any other, as none was added."""
    if process_set is global_process_set:
        return False
    raise ValueError(f"{process_set} was not added; there is nothing to remove")
