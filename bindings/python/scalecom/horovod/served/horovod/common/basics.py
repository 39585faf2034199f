"""Served by scalecom: its session of this process, as an object."""

from scalecom import basics, process_sets


class HorovodBasics:
    """Has the functions of scalecom.basics as its methods. The arguments, in Horovod the place of a
    framework's library, do not matter: every framework shares one library."""

    def __init__(self, pkg_path=None, *args):
        pass

    def __getattr__(self, name):
        return getattr(basics, name)

    @staticmethod
    def _get_process_set_ids_and_ranks():
        return process_sets.ranks_by_number()
