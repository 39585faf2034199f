"""Served by scalecom.launch.function, whose ranks scalecomrun starts."""

import warnings

from scalecom.launch import function
from scalecom.launch import hosts as host_lists

_UNSERVED = {
    **dict.fromkeys(("min_num_proc", "max_num_proc", "min_np", "max_np", "slots", "reset_limit",
                     "cooldown_range", "host_discovery_script"),
                    "start an elastic script by scalecomrun --elastic"),
    "ssh_port": "give the host its Port in ~/.ssh/config",
    "ssh_identity_file": "give the host its IdentityFile in ~/.ssh/config",
    "output_filename": "redirect the output, or start a script by scalecomrun --prefix-output"}


def run(func, args=(), kwargs=None, num_proc=1, min_num_proc=None, max_num_proc=None, slots=None,
        reset_limit=None, cooldown_range=None, hosts=None, hostfile=None, host_discovery_script=None,
        start_timeout=None, ssh_port=None, ssh_identity_file=None, disable_cache=None,
        output_filename=None, verbose=None, use_gloo=None, use_mpi=None, mpi_args=None,
        network_interface=None, network_interfaces=None, executable=None, np=None, min_np=None,
        max_np=None):
    """As Horovod's: func(*args, **kwargs) on num_proc ranks; a list of what they return, in rank order.
    RuntimeError names a rank that failed.

    use_mpi: mpirun starts the ranks, with mpi_args, as it always does on several hosts, which share the
    working folder. NotImplementedError for arguments of elastic jobs; disable_cache and network interfaces
    have no effect.
    """
    given = locals()
    if use_gloo and use_mpi:
        raise ValueError("use_gloo and use_mpi are given; take one")
    if hosts is not None and hostfile is not None:
        raise ValueError("hosts and hostfile are given; take one")
    for name, remedy in _UNSERVED.items():
        if given[name] is not None:
            raise NotImplementedError(f"{name} of horovod.run is not in this version of scalecom; "
                                      f"{remedy}")
    if mpi_args and not use_mpi:
        raise ValueError("mpi_args are for mpirun; give use_mpi=True too")
    if np is not None:
        warnings.warn("np of horovod.run is deprecated; use num_proc", DeprecationWarning,
                      stacklevel=2)
        num_proc = np
    timeout = {} if start_timeout is None else {"SCALECOM_CONNECT_TIMEOUT": str(start_timeout)}
    if hostfile is not None:
        hosts = host_lists.join(host_lists.read_file(hostfile))
    return function.run(func, args, kwargs, num_proc, hosts, "mpirun" if use_mpi else "auto",
                        mpi_args or "", executable, timeout, bool(verbose))


__all__ = ["run"]
