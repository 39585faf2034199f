"""Which hosts an elastic job has: a list, or what a script says each time it is asked."""

import asyncio
import contextlib
import os
import signal

from scalecom.launch import hosts, processes

TIMEOUT_S = 10.0
END_S = 1.0  # After SIGKILL.


class Discovery:
    """hosts: what there is now, in the order in which slots are filled."""

    def __init__(self, found, script=None, default_slots=1):
        self.hosts = found
        self.script = script
        self._default_slots = default_slots
        hosts.check_one_local(found, "-H")

    def slots(self):
        """(host's name, number) of each."""
        return [(host.name, number) for host in self.hosts for number in range(host.slots)]

    async def look(self):
        """Asks the script; ValueError where it does not work or says what is no host."""
        if self.script is None:
            return
        output = await self._ask()
        found = hosts.parse_lines(output.decode(errors="replace"), self.script, self._default_slots)
        hosts.check_one_local(found, self.script)
        self.hosts = found

    async def _ask(self):
        try:
            process = await asyncio.create_subprocess_exec(
                self.script, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                start_new_session=True)
        except OSError as error:
            raise ValueError(f"{self.script} cannot be run: {error.strerror}") from error
        try:
            output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise ValueError(f"{self.script} gave no hosts within {TIMEOUT_S:g} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError):  # And what it started.
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
        if process.returncode != 0:
            raise ValueError(f"{self.script} {processes.describe(process.returncode)}")
        return output
