"""One program on one rank, which writes its verdict: run_program.py MODULE:FUNCTION FOLDER JSON"""

import importlib
import json
import os
import pathlib
import sys
import traceback

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "SLURM_PROCID")


def main():
    target, folder, arguments = sys.argv[1:]
    rank = int(next(filter(None, map(os.environ.get, RANK_VARIABLES)), "0"))
    module, function = target.split(":")
    try:
        program = getattr(importlib.import_module(module), function)
        verdict = {"value": program(**json.loads(arguments))}
    except SystemExit:
        raise
    except BaseException:  # Whatever it is, the test process is to know.
        verdict = {"error": traceback.format_exc()}
    path = pathlib.Path(folder, f"rank{rank}.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(verdict))
    part.rename(path)


if __name__ == "__main__":
    main()
