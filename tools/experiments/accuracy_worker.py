"""A rank of tools/experiments/accuracy: takes one job after another, and adds its rows to the table."""

import json
import pathlib
import sys
import time

import torch

import harness
import tasks


def take(folder, count):
    """The place of the next job that no set of ranks has taken; None where there is none."""
    for place in range(count):
        try:
            (folder / f"{place}.taken").open("x").close()
            return place
        except FileExistsError:
            pass
    return None


def rows_of(job, runs, steps, bytes_sent, seconds):
    """A row of the table for each seed. Every rank calls it: the tests are reductions."""
    columns = ("model", "method", "rate", "beta", "warmup_share", "batch_factor", "ranks")
    return [{**{column: job[column] for column in columns}, "seed": seed, "epochs": job["epochs"],
             "batch": job["batch"], "lr": round(job["lr"], 6), "steps": steps,
             "parameters": len(run.flat), "measure": run.task.measure,
             "value": round(run.test(), 5), "bytes_per_step": round(bytes_sent / steps / len(runs)),
             "seconds": round(seconds, 1), "device": run.device.type}
            for seed, run in zip(job["seeds"], runs)]


def train(job, folder_of_data, device, loaded):
    """Returns the rows of a job."""
    import scalecom.torch as hvd
    import training
    if job["model"] not in loaded:
        loaded[job["model"]] = tasks.TASKS[job["model"]](folder_of_data, device)
    steps = job["epochs"] * (loaded[job["model"]].train_count // job["batch"])
    job["warmup_steps"] = int(job["warmup_share"] * steps)
    before = hvd.stats()["data_bytes_sent"]
    begin = time.perf_counter()
    trained = training.train(job, loaded[job["model"]], device, job["seeds"])
    sent = hvd.stats()["data_bytes_sent"] - before + trained.bytes_elsewhere
    return rows_of(job, trained.runs, trained.steps, sent, time.perf_counter() - begin)


def main():
    folder, folder_of_data, table = map(pathlib.Path, sys.argv[1:4])
    device = sys.argv[4]
    import scalecom.torch as hvd
    hvd.init()
    torch.set_num_threads(1 if device == "cuda" else max(1, harness.cores() // hvd.local_size()))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    store = hvd.broadcast_object(str(folder / f"store.{time.monotonic_ns()}"), name="store")
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=hvd.rank(),
                                         world_size=hvd.size())
    jobs = json.loads((folder / "jobs.json").read_text())
    loaded = {}
    while True:
        mine = take(folder, len(jobs)) if hvd.rank() == 0 else None
        place = hvd.broadcast_object(mine, name="next job")
        if place is None:
            break
        rows = train(jobs[place], folder_of_data, device, loaded)
        if hvd.rank() == 0:
            harness.append_rows(table, rows)
            harness.say("; ".join(f"{row['model']} {row['method']} {row['rate']} beta {row['beta']} "
                                  f"batch {row['batch']} seed {row['seed']}: {row['measure']} "
                                  f"{row['value']}, {row['seconds']} s" for row in rows))
    torch.distributed.destroy_process_group()
    hvd.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        tasks.prepare(pathlib.Path(sys.argv[2]))
    else:
        main()
